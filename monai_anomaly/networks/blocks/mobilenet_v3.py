"""MobileNetV3-Large as a segmentation backbone, layer for layer as torchvision names it.

Howard et al. 2019, "Searching for MobileNetV3", Table 1; the last three blocks are dilated, so that the output stride
is 16.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from monai_anomaly.checks import check_range
from monai_anomaly.networks.blocks.weights import fold_first_convolution, read_weights

MOBILENET_V3_LARGE = "https://download.pytorch.org/models/mobilenet_v3_large-8738ca79.pth"
"""ImageNet weights; the file's name ends in the first digits of its SHA-256, which the download checks."""


class _Row(NamedTuple):
    """A block: kernel size, widths within and after, squeeze and excitation, hard swish, stride, dilation."""

    kernel_size: int
    expanded: int
    out: int
    squeeze: bool
    swish: bool
    stride: int = 1
    dilation: int = 1


_ROWS = (
    _Row(3, 16, 16, False, False),
    _Row(3, 64, 24, False, False, 2),
    _Row(3, 72, 24, False, False),
    _Row(5, 72, 40, True, False, 2),
    _Row(5, 120, 40, True, False),
    _Row(5, 120, 40, True, False),
    _Row(3, 240, 80, False, True, 2),
    _Row(3, 200, 80, False, True),
    _Row(3, 184, 80, False, True),
    _Row(3, 184, 80, False, True),
    _Row(3, 480, 112, True, True),
    _Row(3, 672, 112, True, True),
    _Row(5, 672, 160, True, True, 2, 2),
    _Row(5, 960, 160, True, True, 1, 2),
    _Row(5, 960, 160, True, True, 1, 2),
)
_STEM, _LAST = 16, 960
STAGES = {"stride 2": 1, "stride 4": 3, "stride 8": 6, "stride 16": 16}
"""Index of the last layer at each output stride."""


def _scaled(channels: int, width: float) -> int:
    """Return the nearest multiple of 8 to a scaled width, and no less than nine tenths of it."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    activation: type[nn.Module] | None,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Return convolution, batch normalization and activation."""
    padding = (kernel_size - 1) // 2 * dilation
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=0.001, momentum=0.01),
    ]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


class _SqueezeExcitation(nn.Module):
    """Channels weighted by what their means say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _scaled(channels, 0.25)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return nn.functional.hardsigmoid(weights) * x


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, weight the channels, project; the input is added where the shapes agree."""

    def __init__(self, in_channels: int, row: _Row, width: float) -> None:
        super().__init__()
        expanded, out_channels = _scaled(row.expanded, width), _scaled(row.out, width)
        activation = nn.Hardswish if row.swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(_conv(in_channels, expanded, 1, activation))
        stride = 1 if row.dilation > 1 else row.stride
        layers.append(_conv(expanded, expanded, row.kernel_size, activation, stride, row.dilation, expanded))
        if row.squeeze:
            layers.append(_SqueezeExcitation(expanded))
        layers.append(_conv(expanded, out_channels, 1, None))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and in_channels == out_channels
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        return out + x if self.residual else out


class MobileNetV3(nn.Sequential):
    """The layers "0" to "16" of MobileNetV3-Large, the last at a stride of 16. 2,971,952 parameters with 3 channels.

    Args:
        in_channels: of the images.
        width: factor of all widths, which are rounded to multiples of 8 (paper: 1).

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(self, in_channels: int = 3, width: float = 1.0) -> None:
        check_range("in_channels", in_channels, 1)
        check_range("width", width, 0, low_open=True)
        layers: list[nn.Module] = [_conv(in_channels, _scaled(_STEM, width), 3, nn.Hardswish, 2)]
        channels = [_scaled(_STEM, width)]
        for row in _ROWS:
            layers.append(_InvertedResidual(channels[-1], row, width))
            channels.append(_scaled(row.out, width))
        channels.append(6 * channels[-1])
        layers.append(_conv(channels[-2], channels[-1], 1, nn.Hardswish))
        super().__init__(*layers)
        self.out_channels = [channels[index] for index in STAGES.values()]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def first(self) -> nn.Conv2d:
        """The first convolution."""
        return cast("nn.Conv2d", self.get_submodule("0.0"))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return what the images look like at strides of 2, 4, 8 and 16."""
        found = []
        x = images
        for index, layer in enumerate(self):
            x = layer(x)
            if index in STAGES.values():
                found.append(x)
        return found

    def add_channels(self, count: int = 1) -> None:
        """Let the first layer see further channels, with weights of 0: at first they change nothing."""
        first = self.first
        with torch.no_grad():
            weight = torch.cat((first.weight, first.weight.new_zeros(len(first.weight), count, 3, 3)), 1)
        first.weight = nn.Parameter(weight)
        first.in_channels += count


def load_mobilenet_weights(backbone: MobileNetV3, weights: str | Path, num_extra: int = 0) -> str:
    """Load a MobileNetV3-Large of torchvision's into a backbone, strictly, and return where it came from.

    Args:
        backbone: whose first layer has any number of channels: see `fold_first_convolution`.
        weights: "imagenet", a URL, or a local file: of a classifier, or of a segmenter with this backbone.
        num_extra: channels among them, the last, that are no picture: their weights are 0.

    Raises:
        FileNotFoundError: no such file, or no network to download it from.
        ValueError: weights of another network, or of other widths.
    """
    state, provenance = read_weights(weights, MOBILENET_V3_LARGE)
    own = {
        name.removeprefix("features.").removeprefix("backbone."): value
        for name, value in state.items()
        if not name.startswith("classifier.")
    }
    stem = own.get("0.0.weight")
    if stem is not None and stem.ndim == 4:
        stem = fold_first_convolution(stem, backbone.first.in_channels - num_extra)
        own["0.0.weight"] = torch.cat((stem, stem.new_zeros(len(stem), num_extra, *stem.shape[2:])), 1)
    try:
        backbone.load_state_dict(own)
    except RuntimeError as error:
        msg = f"weights {str(weights)!r} do not fit MobileNetV3-Large: {' '.join(str(error).split())[:300]}"
        raise ValueError(msg) from error
    return provenance
