"""MobileNetV3 and Attention-MobileNet: segmenters of retinal B-scans, which anomaly maps may guide.

Kahrs et al. 2025, "Anomaly-guided image segmentation on retinal OCT images", sections II.II and II.III, Fig. 1.
"""

from __future__ import annotations

from pathlib import Path

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn

from monai_anomaly.checks import check_image_batch, check_option, check_range
from monai_anomaly.networks.blocks.attention_gate import AttentionGate
from monai_anomaly.networks.blocks.lr_aspp import LRASPPHead, TwoSkipDecoder, enlarge
from monai_anomaly.networks.blocks.mobilenet_v3 import MobileNetV3, load_mobilenet_weights
from monai_anomaly.transforms.resize_images import resize_images

HEADS = ("torchvision", "two_skip")
SEGMENTER_GUIDANCES = ("none", "input", "output")
ATTENTION_GUIDANCES = ("none", "gate", "map")

LOGITS, ANOMALY_LOGITS, COARSE_GATE, FINE_GATE = "logits", "anomaly_logits", "gate_4", "gate_2"
"""Names of what `outputs` returns."""


class _Segmenter(nn.Module):
    """What both segmenters share: the backbone, and a last input channel for a map."""

    def __init__(self, in_channels: int, num_classes: int, width: float, num_maps: int) -> None:
        super().__init__()
        check_range("num_classes", num_classes, 2)
        self.in_channels, self.num_maps = in_channels, num_maps
        self.num_classes = num_classes
        self.backbone = MobileNetV3(in_channels, width)

    def load_backbone(self, weights: str | Path | None) -> str | None:
        """Load ImageNet's weights and return where they came from; a map's channel starts at 0.

        Args:
            weights: "imagenet", a URL or a file, see `load_mobilenet_weights`; None leaves the random ones.
        """
        if weights is None:
            return None
        num_extra = self.backbone.first.in_channels - self.in_channels
        return load_mobilenet_weights(self.backbone, weights, num_extra)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return all that the network says: "logits", and what a loss may want beside them."""
        raise NotImplementedError

    def _checked(self, images: Tensor) -> Tensor:
        check_image_batch(type(self).__name__, images, self.in_channels + self.num_maps)
        return convert_to_tensor(images).float()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return convert_to_dst_type(self.outputs(images)[LOGITS], images, dtype=torch.float32)[0]


class MobileNetV3Segmenter(_Segmenter):
    """MobileNetV3-Large with a lite reduced pyramid pooling, the baseline, IDAG and DAG of the paper.

    3,218,818 parameters by default, and torchvision's names. With ``head="two_skip"`` and one channel, the baseline
    of `AttentionMobileNet`: 3,282,453.

    Args:
        in_channels: of the images.
        num_classes: K.
        head: "torchvision": a skip connection at a stride of 8; "two_skip": two, at 4 and 2.
        guidance: "none"; "input" (DAG): a map is one more channel of the input; "output" (IDAG): one more channel of
            the output learns a map. The input's weights for it are 0 at first: it starts as the baseline.
        width: factor of the backbone's widths (paper: 1).

    Shape:
        input (B, in_channels, H, W), any H and W, with "input" (B, in_channels + 1, H, W), the map last, in [0, 1];
        output (B, K, H, W).

    Raises:
        ValueError: arguments out of range, or images of another shape.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 5,
        head: str = "torchvision",
        guidance: str = "none",
        width: float = 1.0,
    ) -> None:
        self.guidance = check_option("guidance", guidance, SEGMENTER_GUIDANCES)
        super().__init__(in_channels, num_classes, width, int(guidance == "input"))
        self.head = check_option("head", head, HEADS)
        fine, coarse, middle, deep = self.backbone.out_channels
        num_outputs = num_classes + int(guidance == "output")
        if head == "torchvision":
            self.classifier: nn.Module = LRASPPHead(middle, deep, num_outputs)
        else:
            self.decoder = TwoSkipDecoder(fine, coarse, deep)
            self.classifier = nn.Conv2d(128, num_outputs, 1)
        if guidance == "input":
            self.backbone.add_channels()

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return "logits" (B, K, H, W), and with guidance "output" "anomaly_logits" (B, 1, H, W)."""
        x = self._checked(images)
        fine, coarse, middle, deep = self.backbone.features(x)
        low = (
            self.classifier(middle, deep)
            if self.head == "torchvision"
            else self.classifier(self.decoder(fine, coarse, deep))
        )
        found = enlarge(low, x)
        if self.guidance != "output":
            return {LOGITS: found}
        return {LOGITS: found[:, : self.num_classes], ANOMALY_LOGITS: found[:, self.num_classes :]}


class AttentionMobileNet(_Segmenter):
    """AMNet: what comes through the skip connections is weighed, and the image joins in before the last layer.

    The gate at a stride of 4 is asked by the decoder's first features, the one at 2 by those the former gave. The image
    meets the decoder's features in a 1 x 1 convolution, which the decoder's share goes through before it is enlarged:
    the same function at a quarter of the cost.

    Args:
        in_channels: of the images.
        num_classes: K.
        guidance: "gate" (AMNet, AnoG-AMNet): attention gates; "map" (AnoAMNet): an anomaly map in their place; "none":
            neither.
        skip_channels: of the features beside the image, in the last block.
        width: factor of the backbone's widths (paper: 1).

    Shape:
        input (B, in_channels, H, W), any H and W from 32, with "map" (B, in_channels + 1, H, W), the map last, in
        [0, 1]; output (B, K, H, W).

    Raises:
        ValueError: arguments out of range, or images of another shape.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 5,
        guidance: str = "gate",
        skip_channels: int = 32,
        width: float = 1.0,
    ) -> None:
        self.guidance = check_option("guidance", guidance, ATTENTION_GUIDANCES)
        super().__init__(in_channels, num_classes, width, int(guidance == "map"))
        fine, coarse, _, deep = self.backbone.out_channels
        filters = 128
        self.decoder = TwoSkipDecoder(fine, coarse, deep, filters)
        if guidance == "gate":
            self.coarse_gate, self.fine_gate = AttentionGate(coarse, filters), AttentionGate(fine, filters)
        self.features_skip = nn.Conv2d(filters, skip_channels, 1, bias=False)
        self.image_skip = nn.Conv2d(in_channels, skip_channels, 1, bias=False)
        self.last = nn.Sequential(
            nn.BatchNorm2d(skip_channels), nn.ReLU(inplace=True), nn.Conv2d(skip_channels, num_classes, 1)
        )

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return "logits" (B, K, H, W), and with gates "gate_4" and "gate_2", alpha at strides of 4 and 2."""
        checked = self._checked(images)
        x, anomaly_map = checked[:, : self.in_channels], checked[:, self.in_channels :]
        fine, coarse, _, deep = self.backbone.features(x)
        gates: dict[str, Tensor] = {}
        features = self.decoder.start(deep)
        if self.guidance == "gate":
            coarse, gates[COARSE_GATE] = self.coarse_gate(coarse, features)
        elif self.guidance == "map":
            coarse = coarse * resize_images(anomaly_map, coarse.shape[2:])
        features = self.decoder.join_coarse(features, coarse)
        if self.guidance == "gate":
            fine, gates[FINE_GATE] = self.fine_gate(fine, features)
        elif self.guidance == "map":
            fine = fine * resize_images(anomaly_map, fine.shape[2:])
        features = self.features_skip(self.decoder.join_fine(features, fine))
        return {LOGITS: self.last(enlarge(features, x) + self.image_skip(x)), **gates}
