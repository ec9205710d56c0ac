"""AGM's classifier: which lesions a B-scan has, told from the scan, its healthy counterpart and their difference.

Yang et al. 2024, "Anomaly-guided weakly supervised lesion segmentation on retinal OCT images", sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_anomaly.checks import check_divisible, check_image_batch, check_option, check_range
from monai_anomaly.networks.blocks.conv_stage import ConvStage
from monai_anomaly.networks.blocks.local_self_attention import LocalSelfAttention
from monai_anomaly.networks.blocks.named_classes import NamedClasses
from monai_anomaly.networks.blocks.residual_map import SIDES, residual
from monai_anomaly.networks.blocks.wide_resnet import ResNet2d, load_trunk_weights

DIFFERENCES = ("of_normalized", "normalized")
POOLINGS = ("max", "average")
HEADS = ("mlp", "single")


def min_max(x: Tensor, eps: float = 1e-7) -> Tensor:
    """Return each sample, (B, ...), with its values mapped to [0, 1]; a constant one gives 0 (Eq. 12)."""
    flat = x.flatten(1)
    shape = (-1, *(1,) * (x.ndim - 1))
    low, high = flat.amin(1).view(shape), flat.amax(1).view(shape)
    return (x - low) / (high - low).clamp(min=eps)


class AGMClassifier(NamedClasses):
    """p = FC(GMP(F_b * F_a)), Eq. 1 to 7: 114,231,875 parameters by default, beside the generator's.

    The generator is frozen and stays in evaluation mode; its weights are in the state dict. Ablation I of the paper's
    Table 4 is ``generator=None, attention=False, pooling="average"``, II has a generator, III
    attention, IV max pooling.

    Args:
        generator: G, gives healthy counterparts, images in [-1, 1] (GANomaly's); None for a plain backbone.
        num_classes: N, the background last, if it counts as one.
        in_channels: C of the images.
        backbone: a ResNet, see `ResNet2d` (paper: "resnet50").
        attention: multiply with the second branch, which needs a generator.
        pooling: "max" or "average", before the last layers.
        head: "mlp", three layers as in the published code, or "single", one as in Eq. 7.
        dropout: between the layers of the head.
        kernel_size: of the attention (paper: 7).
        num_heads: of the attention (paper: 4).
        reading: of the attention, see `LocalSelfAttention`.
        difference: "of_normalized": |norm(x) - norm(x_hat)|, published code; "normalized": norm(|x - x_hat|), as said.
        output_stride: of the features: 32 (paper), 16 or 8 for smaller images.
        width: factor of all widths (paper: 1).
        class_names: of the lesions, see `NamedClasses`.
        side: of the difference that counts, see `residual`.

    Shape:
        input (B, C + 1, H, W) in [0, 1], the last channel above 0.5 where there is retina, H and W multiples of the
        output stride; output logits (B, N).

    Raises:
        ValueError: arguments out of range, or images of another shape.
    """

    def __init__(
        self,
        generator: nn.Module | None,
        num_classes: int = 3,
        in_channels: int = 3,
        backbone: str = "resnet50",
        attention: bool = True,
        pooling: str = "max",
        head: str = "mlp",
        dropout: float = 0.5,
        kernel_size: int = 7,
        num_heads: int = 4,
        reading: str = "paper",
        difference: str = "of_normalized",
        output_stride: int = 32,
        width: float = 1.0,
        class_names: Sequence[str] = (),
        side: str = "both",
    ) -> None:
        super().__init__(class_names)
        check_range("num_classes", num_classes, 1)
        if attention and generator is None:
            msg = "The attention looks at the difference from a healthy counterpart; pass a generator, or no attention."
            raise ValueError(msg)
        self.in_channels, self.num_classes, self.output_stride = in_channels, num_classes, output_stride
        self.name = backbone
        self.pooling = check_option("pooling", pooling, POOLINGS)
        self.difference_of = check_option("difference", difference, DIFFERENCES)
        self.side = check_option("side", side, SIDES)
        check_option("head", head, HEADS)
        self.backbone = ResNet2d(backbone, in_channels * (1 if generator is None else 2), 0, output_stride, width)
        channels = self.backbone.stage_channels[-1]
        self.encoder, self.attention = None, None
        if attention:
            self.encoder = _encoder(in_channels, channels, output_stride)
            self.attention = LocalSelfAttention(channels, kernel_size, num_heads, reading)
        if head == "single":
            self.head: nn.Module = nn.Linear(channels, num_classes)
        else:
            half, quarter = channels // 2, channels // 4
            self.head = nn.Sequential(
                *(nn.Linear(channels, half), nn.ReLU(inplace=True), nn.Dropout(dropout)),
                *(nn.Linear(half, quarter), nn.ReLU(inplace=True), nn.Dropout(dropout)),
                nn.Linear(quarter, num_classes),
            )
        self.generator = generator
        if generator is not None:
            generator.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> AGMClassifier:
        """Set the mode; the generator stays in evaluation mode."""
        super().train(mode)
        if self.generator is not None:
            self.generator.eval()
        return self

    @property
    def cam_layers(self) -> list[str]:
        """Names of the last layers of both branches, whose maps are averaged (section 5.2)."""
        return ["backbone.layer4", *([] if self.encoder is None else [f"encoder.{len(self.encoder) - 1}"])]

    def load_backbone(self, weights: str | Path | None) -> str | None:
        """Load ImageNet's weights and return where they came from; what sees the healthy counterpart stays random.

        Args:
            weights: "imagenet", a URL or a file, see `load_resnet_weights`; None leaves the random ones.
        """
        if weights is None:
            return None
        num_extra = 0 if self.generator is None else self.in_channels
        return load_trunk_weights(self.backbone, self.name, weights, num_extra)

    @torch.no_grad()
    def healthy(self, images: Tensor) -> Tensor:
        """Return x_hat, the healthy counterparts of images (B, C, H, W), in [0, 1] as they are."""
        if self.generator is None:
            msg = "This classifier has no generator, and so no healthy counterparts."
            raise RuntimeError(msg)
        return torch.as_tensor((self.generator(2 * images - 1) + 1) / 2)

    def difference(self, images: Tensor, healthy: Tensor, retina: Tensor) -> Tensor:
        """Return X_a (Eq. 2), (B, C, H, W), 0 beside the retina."""
        if self.difference_of == "normalized":
            return min_max(residual(images, healthy, self.side) * (retina > 0.5))
        return residual(min_max(images), min_max(healthy), self.side) * (retina > 0.5)

    def features(self, images: Tensor, focus: Tensor | None = None) -> Tensor:
        """Return F, (B, D, H / output_stride, W / output_stride) (Eq. 6).

        Args:
            images: the network's input.
            focus: SM, (B, 1, H, W), by which the backbone's image is multiplied; not the other branch's (section 3.3).
        """
        check_image_batch("AGMClassifier", images, self.in_channels + 1)
        check_divisible(images, self.output_stride)
        plain = convert_to_tensor(images).float()
        x, retina = plain[:, : self.in_channels], plain[:, self.in_channels :]
        seen = x if focus is None else focus * x
        if self.generator is None:
            return self.backbone.stages(seen)[-1]
        healthy = self.healthy(x)
        features = self.backbone.stages(torch.cat((seen, healthy), 1))[-1]
        if self.encoder is None or self.attention is None:
            return features
        anomalous = self.attention(self.encoder(self.difference(x, healthy, retina)))
        return features * torch.relu(anomalous)

    def logits(self, images: Tensor, focus: Tensor | None = None) -> Tensor:
        """Return p before the sigmoid (Eq. 7); arguments as of `features`."""
        found = self.features(images, focus)
        pooled = found.amax((2, 3)) if self.pooling == "max" else found.mean((2, 3))
        return torch.as_tensor(self.head(pooled))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the classes."""
        return self.logits(images)


def _encoder(in_channels: int, out_channels: int, output_stride: int) -> nn.Sequential:
    """Return pairs of convolutions, halving between them: f_enc, 75,486,528 parameters from 3 to 2,048 channels."""
    num_halvings = output_stride.bit_length() - 1
    widths = [max(1, out_channels >> level) for level in range(num_halvings, -1, -1)]
    stages: list[nn.Module] = [ConvStage(in_channels, widths[0], "NA")]
    stages += [nn.Sequential(nn.MaxPool2d(2), ConvStage(narrow, wide, "NA")) for narrow, wide in pairwise(widths)]
    return nn.Sequential(*stages)
