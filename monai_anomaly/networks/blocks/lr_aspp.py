"""Heads that make a segmentation of MobileNetV3's features: lite reduced atrous spatial pyramid pooling.

Howard et al. 2019, "Searching for MobileNetV3", section 6.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def enlarge(x: Tensor, like: Tensor | Sequence[int]) -> Tensor:
    """Return features at another's resolution, bilinearly."""
    size = list(like.shape[2:]) if isinstance(like, Tensor) else list(like)
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class _Pooled(nn.Module):
    """Features weighed by what the whole image says."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.cbr = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
        )
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.Sigmoid()
        )

    def pooled(self, deep: Tensor) -> Tensor:
        """Return the deepest features, reduced and weighed."""
        return torch.as_tensor(self.cbr(deep) * self.scale(deep))


class LRASPPHead(_Pooled):
    """The published head, one skip connection at a stride of 8, named as in torchvision.

    Args:
        skip_channels: of the features at a stride of 8.
        deep_channels: of the deepest features.
        num_outputs: of the logits.
        filters: of what is pooled.
    """

    def __init__(self, skip_channels: int, deep_channels: int, num_outputs: int, filters: int = 128) -> None:
        super().__init__(deep_channels, filters)
        self.low_classifier = nn.Conv2d(skip_channels, num_outputs, 1)
        self.high_classifier = nn.Conv2d(filters, num_outputs, 1)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        """Return logits at the skip connection's resolution."""
        return torch.as_tensor(self.low_classifier(skip) + self.high_classifier(enlarge(self.pooled(deep), skip)))


def _conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def _pixels(x: Tensor) -> Tensor:
    """Return a view (B, H * W, C) of features (B, C, H, W)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _join(block: nn.Sequential, features: Tensor, skip: Tensor, reduce: nn.Conv2d) -> Tensor:
    """Return a block's answer to enlarged features with a reduced skip connection concatenated.

    Its 1 x 1 convolution commutes with the enlargement and comes before it: a quarter of the products. The skip
    connection's two convolutions are one product, summed into the enlarged features in place: of what is large there
    is one copy, and on a CPU memory taken from the system anew costs more than the products.
    """
    conv, count = cast("nn.Conv2d", block[0]), features.shape[1]
    joined = enlarge(F.conv2d(features, conv.weight[:, :count], conv.bias), skip)
    weight = conv.weight[:, count:, 0, 0] @ reduce.weight[:, :, 0, 0]
    _pixels(joined).baddbmm_(_pixels(skip).to(joined.dtype), weight.T.to(joined.dtype).expand(len(skip), -1, -1))
    return torch.as_tensor(block[1:](joined))


class TwoSkipDecoder(_Pooled):
    """Features at a stride of 2, from skip connections at 2 and 4 beside the deepest. 310,144 parameters by default.

    The steps are methods, so that what comes through a skip connection may be weighed in between.

    Args:
        fine_channels: of the features at a stride of 2.
        coarse_channels: at a stride of 4.
        deep_channels: of the deepest ones.
        filters: of the result.
    """

    def __init__(
        self, fine_channels: int = 16, coarse_channels: int = 24, deep_channels: int = 960, filters: int = 128
    ) -> None:
        super().__init__(deep_channels, filters)
        fine, coarse = filters // 4, filters // 2
        self.fine = nn.Conv2d(fine_channels, fine, 1, bias=False)
        self.coarse = nn.Conv2d(coarse_channels, coarse, 1, bias=False)
        self.up1 = nn.Conv2d(filters, filters, 1)
        self.up2 = _conv(filters + coarse, filters)
        self.up3 = _conv(filters + fine, filters)

    def start(self, deep: Tensor) -> Tensor:
        """Return the features that the coarse skip connection joins."""
        return torch.as_tensor(self.up1(self.pooled(deep)))

    def join_coarse(self, features: Tensor, skip: Tensor) -> Tensor:
        """Return features at a stride of 4."""
        return _join(self.up2, features, skip, self.coarse)

    def join_fine(self, features: Tensor, skip: Tensor) -> Tensor:
        """Return features at a stride of 2."""
        return _join(self.up3, features, skip, self.fine)

    def forward(self, fine: Tensor, coarse: Tensor, deep: Tensor) -> Tensor:
        """Return features at a stride of 2."""
        return self.join_fine(self.join_coarse(self.start(deep), coarse), fine)
