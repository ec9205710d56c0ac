"""Features of several stages of a residual network, on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.networks.blocks.wide_resnet import ResNet2d


class MultiLevelFeatures(nn.Module):
    """Concatenate the outputs of a residual network's stages, the coarser ones resized to the finest.

    F = concat(f_2, T_u(f_3)), T_u bilinear (Niu et al. 2023, ReSAD, Eqs. 1-2; PatchCore uses the same two stages).
    The stages after the last one asked for are dropped.

    Args:
        backbone: the network, which keeps its weights.
        levels: stages to take, 1 to 4, increasing (paper: 2 and 3).
        pooling_size: side of an average pool with stride 1 before concatenation, odd; 1 does nothing (PatchCore: 3).

    Shape:
        input (B, C, H, W), output (B, sum of the stages' channels, h, w), h = H / 8 for levels starting at 2.

    Raises:
        ValueError: levels not increasing within 1 to 4, or an even pooling size.
    """

    def __init__(self, backbone: ResNet2d, levels: Sequence[int] = (2, 3), pooling_size: int = 1) -> None:
        super().__init__()
        if not levels or list(levels) != sorted(set(levels)) or levels[0] < 1 or levels[-1] > 4:
            msg = f"levels must increase within 1 to 4, got {list(levels)}."
            raise ValueError(msg)
        if pooling_size < 1 or pooling_size % 2 == 0:
            msg = f"pooling_size must be odd and at least 1, got {pooling_size}."
            raise ValueError(msg)
        self.levels = tuple(levels)
        self.pooling_size = pooling_size
        self.out_channels = sum(backbone.stage_channels[level - 1] for level in levels)
        self.stem = nn.Sequential()
        for name in ("conv1", "bn1", "relu", "maxpool"):
            self.stem.add_module(name, getattr(backbone, name))
        self.stages = nn.ModuleList(getattr(backbone, f"layer{level}") for level in range(1, levels[-1] + 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of all levels on the grid of the first, (B, out_channels, h, w)."""
        x = self.stem(images)
        maps: list[Tensor] = []
        for level, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if level in self.levels:
                maps.append(x)
        if self.pooling_size > 1:
            maps = [F.avg_pool2d(m, self.pooling_size, 1, self.pooling_size // 2) for m in maps]
        size = maps[0].shape[-2:]
        resized = [maps[0], *(F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:])]
        return torch.cat(resized, dim=1).contiguous()
