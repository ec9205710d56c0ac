"""How much of each lesion is found, every lesion counting the same whatever its size."""

from __future__ import annotations

import numpy as np
from monai.utils import convert_to_tensor
from scipy import ndimage
from torch import Tensor

from monai_anomaly.checks import check_range
from monai_anomaly.metrics.curves import Curve
from monai_anomaly.metrics.pixel_metrics import StreamingMetric
from monai_anomaly.metrics.score_distribution import flatten_pair


def per_region_overlap(curve: Curve, max_false_positive_rate: float = 0.3) -> float:
    """Return the area under overlap over false positive rate up to a limit, divided by the limit, in [0, 1].

    Args:
        curve: whose positives are weighted so that every region weighs 1.
        max_false_positive_rate: the limit, in (0, 1] (Bergmann et al. 2021: 0.3).
    """
    if not curve.num_positives or not curve.num_negatives:
        return float("nan")
    false, overlap = curve.rates()
    inside = false <= max_false_positive_rate
    at_limit = np.interp(max_false_positive_rate, false, overlap)
    false = np.append(false[inside], max_false_positive_rate)
    overlap = np.append(overlap[inside], at_limit)
    return float(np.trapezoid(overlap, false) / max_false_positive_rate)


class PerRegionOverlapMetric(StreamingMetric):
    """Area under the per-region overlap curve (AUPRO), in [0, 1]; NaN without lesions.

    For each threshold, the mean over all connected lesions of the fraction of the lesion above it, over the false
    positive rate of all healthy pixels (Bergmann et al. 2021). Regions touch by corners too: 8 neighbors in images,
    26 in volumes.

    Args:
        max_false_positive_rate: up to which the curve counts, in (0, 1].
        resolution: of the `ScoreDistribution`.

    Raises:
        ValueError: the limit is outside (0, 1].
    """

    def __init__(self, max_false_positive_rate: float = 0.3, resolution: int = 20_000) -> None:
        check_range("max_false_positive_rate", max_false_positive_rate, 0, 1, low_open=True)
        super().__init__(resolution)
        self.max_false_positive_rate = max_false_positive_rate

    def _add(self, y_pred: Tensor, y: Tensor, mask: Tensor | None) -> None:
        flatten_pair(y_pred, y)  # the checks, for all images before any is counted
        for index in range(len(y)):
            self._add_image(y_pred[index], y[index], None if mask is None else mask[index])

    def _add_image(self, y_pred: Tensor, y: Tensor, mask: Tensor | None) -> None:
        flat, positive = flatten_pair(y_pred, y)
        kept = np.ones(len(flat), bool) if mask is None else convert_to_tensor(mask).reshape(-1).bool().cpu().numpy()
        self.scores.negatives.add(flat[~positive & kept])
        lesions = positive & kept
        if not lesions.any():
            return
        shape = tuple(y.shape[1:])
        regions = ndimage.label(lesions.reshape(shape), ndimage.generate_binary_structure(len(shape), len(shape)))[0]
        numbers = regions.reshape(-1)[lesions]
        order = np.argsort(numbers, kind="stable")
        sizes = np.bincount(numbers)[1:]
        for scores in np.split(flat[lesions][order], np.cumsum(sizes)[:-1]):
            self.scores.positives.add(scores, 1 / len(scores))

    def aggregate(self) -> float:
        """Return the area."""
        return per_region_overlap(Curve.of(self.scores), self.max_false_positive_rate)
