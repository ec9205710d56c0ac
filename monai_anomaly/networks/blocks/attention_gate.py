"""Attention gates of skip connections (Oktay et al. 2018, "Attention U-Net", Eqs. 1 and 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionGate(nn.Module):
    """Weigh features by where a coarser layer looks: alpha = sigmoid(psi ReLU(theta x + phi g + b) + b_psi).

    theta halves the resolution, as in the authors' grid attention; MONAI's AttentionBlock keeps it, and has no
    convolution at its end.

    Args:
        in_channels: of the features x.
        gate_channels: of the coarser features g.
        inter_channels: of the sum; None for half of ``in_channels``.

    Shape:
        x (B, in_channels, H, W), g (B, gate_channels, h, w); output of x's shape, and alpha (B, 1, H, W) in (0, 1).
    """

    def __init__(self, in_channels: int, gate_channels: int, inter_channels: int | None = None) -> None:
        super().__init__()
        between = inter_channels or max(1, in_channels // 2)
        self.theta = nn.Conv2d(in_channels, between, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(gate_channels, between, 1)
        self.psi = nn.Conv2d(between, 1, 1)
        self.w = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.BatchNorm2d(in_channels))

    def attention(self, x: Tensor, g: Tensor) -> Tensor:
        """Return alpha, (B, 1, H, W)."""
        theta = self.theta(x)
        gate = F.interpolate(self.phi(g), theta.shape[2:], mode="bilinear", align_corners=False)
        alpha = torch.sigmoid(self.psi(torch.relu(theta + gate)))
        return F.interpolate(alpha, x.shape[2:], mode="bilinear", align_corners=False)

    def forward(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighed features and alpha."""
        alpha = self.attention(x, g)
        return self.w(alpha * x), alpha
