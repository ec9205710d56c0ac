"""What values a detector's map takes on healthy images: the scale on which its maps are read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_anomaly.checks import check_range
from monai_anomaly.networks.blocks.resizable_buffers import ResizableBuffers


class HealthyCalibration(ResizableBuffers):
    """Turn anomaly maps into [0, 1] by percentiles of healthy pixels, the same for every image.

    0 at and below the lower percentile, 1 at and above the upper one, linear between. Scaling each image by its own
    minimum and maximum instead would find something wrong in every healthy eye.

    Args:
        lower_percentile: of healthy pixels, in [0, 100).
        upper_percentile: of healthy pixels, in (lower_percentile, 100].
        num_levels: percentiles stored, evenly spaced; 1,001 keeps steps of 0.1 %.

    Shape:
        any shape in, the same shape out.

    Raises:
        ValueError: percentiles that do not increase within 0 to 100.
        RuntimeError: used before `fit`.
    """

    def __init__(self, lower_percentile: float = 50.0, upper_percentile: float = 99.5, num_levels: int = 1001) -> None:
        super().__init__()
        check_range("lower_percentile", lower_percentile, 0, 100)
        check_range("upper_percentile", upper_percentile, lower_percentile, 100, low_open=True)
        self.percentiles = (lower_percentile, upper_percentile)
        self.num_levels = num_levels
        self.register_buffer("levels", torch.empty(0))
        self.levels: Tensor

    @property
    def is_fitted(self) -> bool:
        """Whether healthy values are known."""
        return self.levels.numel() > 0

    def fit(self, levels: Tensor) -> None:
        """Store the values at evenly spaced percentiles of healthy pixels, 0 to 100, non-decreasing, (L,).

        Raises:
            ValueError: fewer than two, not finite, or decreasing.
        """
        if (
            levels.ndim != 1
            or len(levels) < 2
            or not bool(torch.isfinite(levels).all())
            or bool((levels.diff() < 0).any())
        ):
            msg = f"levels must be finite and non-decreasing (L,), L >= 2, got {tuple(levels.shape)}."
            raise ValueError(msg)
        self.levels = levels.detach().to(self.levels.device, torch.float32).clone()

    def fit_distribution(self, scores: np.ndarray, weights: np.ndarray) -> None:
        """Store the values at evenly spaced percentiles of a distribution.

        Args:
            scores: values, descending, (N,), at least one.
            weights: how many pixels have each, (N,).
        """
        below = (weights.sum() - weights.cumsum() + weights / 2) / weights.sum()  # fraction of pixels below each score
        levels = torch.linspace(0, 1, self.num_levels, dtype=torch.float64)
        ascending, position = torch.from_numpy(scores[::-1].copy()), torch.from_numpy(below[::-1].copy())
        right = torch.searchsorted(position, levels).clamp(1, max(len(position) - 1, 1)).clamp(max=len(position) - 1)
        left = (right - 1).clamp(min=0)
        step = (position[right] - position[left]).clamp(min=1e-300)
        part = ((levels - position[left]) / step).clamp(0, 1)
        self.fit(torch.lerp(ascending[left], ascending[right], part))

    def value_at(self, percentile: float) -> float:
        """Return the value below which ``percentile`` per cent of healthy pixels lie."""
        if not self.is_fitted:
            msg = "The detector has no calibration: fit it on healthy images first (train.yaml)."
            raise RuntimeError(msg)
        check_range("percentile", percentile, 0, 100)
        position = percentile / 100 * (len(self.levels) - 1)
        low = min(int(position), len(self.levels) - 2)
        return float(torch.lerp(self.levels[low], self.levels[low + 1], position - low))

    def forward(self, anomaly_map: Tensor) -> Tensor:
        """Return the map in [0, 1]."""
        low, high = (self.value_at(percentile) for percentile in self.percentiles)
        if high <= low:  # most healthy pixels share one value: the highest they have is 1 then
            high = float(self.levels[-1])
        scale = max(high - low, torch.finfo(torch.float32).tiny)
        return ((anomaly_map - low) / scale).clamp(0, 1)
