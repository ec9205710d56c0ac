"""DeepLabV3+ on a ResNet: atrous spatial pyramid pooling, and a decoder that goes back to the fine features.

Chen et al. 2018, "Encoder-decoder with atrous separable convolution for semantic image segmentation".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn

from monai_anomaly.checks import check_image_batch, check_range
from monai_anomaly.networks.blocks.lr_aspp import enlarge
from monai_anomaly.networks.blocks.named_classes import NamedClasses
from monai_anomaly.networks.blocks.wide_resnet import ResNet2d, load_trunk_weights


def _conv(in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return convolution, batch normalization, ReLU; a 3 x 3 one filters each channel first."""
    layers: list[nn.Module] = []
    if kernel_size > 1:
        padding = (kernel_size - 1) // 2 * dilation
        layers.append(
            nn.Conv2d(in_channels, in_channels, kernel_size, 1, padding, dilation, groups=in_channels, bias=False)
        )
    layers += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class DeepLabV3Plus(NamedClasses):
    """Segment images with a ResNet, a pyramid of dilated convolutions and a decoder.

    Args:
        in_channels: of the images.
        num_classes: K, the background first.
        backbone: see `ResNet2d` (AGM: "resnet50" and "resnet101").
        rates: dilations of the pyramid, for an output stride of 16.
        filters: of pyramid and decoder.
        output_stride: of the deepest features, 16 or 8.
        width: factor of the backbone's widths.
        class_names: of the lesions, see `NamedClasses`.

    Shape:
        input (B, in_channels, H, W), any H and W; output logits (B, K, H, W).

    Raises:
        ValueError: arguments out of range, or images of another shape.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 3,
        backbone: str = "resnet50",
        rates: Sequence[int] = (6, 12, 18),
        filters: int = 256,
        output_stride: int = 16,
        width: float = 1.0,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(class_names)
        check_range("num_classes", num_classes, 2)
        self.in_channels, self.name = in_channels, backbone
        self.backbone = ResNet2d(backbone, in_channels, 0, output_stride, width)
        fine, deep = self.backbone.stage_channels[0], self.backbone.stage_channels[-1]
        self.pyramid = nn.ModuleList([_conv(deep, filters), *(_conv(deep, filters, 3, rate) for rate in rates)])
        self.overall = nn.Sequential(nn.Conv2d(deep, filters, 1), nn.ReLU(inplace=True))  # of one pixel: no statistics
        self.project = nn.Sequential(_conv((len(rates) + 2) * filters, filters), nn.Dropout(0.1))
        self.fine = _conv(fine, 48)
        self.decoder = nn.Sequential(_conv(filters + 48, filters, 3), _conv(filters, filters, 3))
        self.classifier = nn.Conv2d(filters, num_classes, 1)

    def load_backbone(self, weights: str | Path | None) -> str | None:
        """Load ImageNet's weights and return where they came from; None leaves the random ones."""
        return None if weights is None else load_trunk_weights(self.backbone, self.name, weights)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        check_image_batch("DeepLabV3Plus", images, self.in_channels)
        x = convert_to_tensor(images).float()
        fine, _, _, deep = self.backbone.stages(x)
        overall = self.overall(deep.mean((2, 3), keepdim=True)).expand(-1, -1, *deep.shape[2:])
        found = self.project(torch.cat([*(branch(deep) for branch in self.pyramid), overall], 1))
        found = self.decoder(torch.cat((enlarge(found, fine), self.fine(fine)), 1))
        return convert_to_dst_type(enlarge(self.classifier(found), x), images, dtype=torch.float32)[0]
