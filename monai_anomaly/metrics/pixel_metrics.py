"""Pixel metrics with MONAI's calling convention: ``metric(anomaly_map, label)``, ``aggregate()``, ``reset()``.

Image-level metrics are the same ones on scores and labels of shape (B, 1).
"""

from __future__ import annotations

from abc import abstractmethod

from monai.metrics import Metric
from torch import Tensor

from monai_anomaly.metrics.curves import Curve, average_precision, balanced_accuracy, best_dice, roc_auc
from monai_anomaly.metrics.score_distribution import LabeledScores


class StreamingMetric(Metric):
    """A metric of all pixels seen since `reset`, pooled, in memory that does not grow with their number.

    Args:
        resolution: of the `ScoreDistribution`.
    """

    def __init__(self, resolution: int = 20_000) -> None:
        self.resolution = resolution
        self.scores = LabeledScores(resolution)

    def __call__(self, y_pred: Tensor, y: Tensor, mask: Tensor | None = None) -> None:
        """Add maps and labels.

        Args:
            y_pred: anomaly maps (B, 1, …), any float range, higher = more anomalous; used as they are.
            y: labels (B, 1, …) in {0, 1}.
            mask: (B, 1, …); where it is 0 nothing counts.

        Raises:
            ValueError: shapes differ or lack a channel dimension of 1, labels are not 0 or 1, or NaN.
        """
        if y_pred.ndim < 2 or y_pred.shape[1] != 1:
            msg = f"{type(self).__name__} expects (B, 1, ...), got {tuple(y_pred.shape)}."
            raise ValueError(msg)
        self._add(y_pred, y, mask)

    def _add(self, y_pred: Tensor, y: Tensor, mask: Tensor | None) -> None:
        self.scores.update(y_pred, y, mask)

    @abstractmethod
    def aggregate(self) -> float:
        """Return the metric of everything seen; NaN where there were no positives."""

    def merge(self, other: StreamingMetric) -> None:
        """Add what another metric of the same kind has seen, in another process for instance."""
        self.scores.merge(other.scores)

    def reset(self) -> None:
        """Forget everything seen."""
        self.scores = LabeledScores(self.resolution)


class PixelROCAUCMetric(StreamingMetric):
    """Area under the ROC curve of all pixels pooled, in [0, 1]; NaN without positives or without negatives."""

    def aggregate(self) -> float:
        """Return the area."""
        return roc_auc(Curve.of(self.scores))


class PixelAveragePrecisionMetric(StreamingMetric):
    """Area under the precision-recall curve of all pixels pooled, in [0, 1]; NaN without positives."""

    def aggregate(self) -> float:
        """Return the area."""
        return average_precision(Curve.of(self.scores))


class BestDiceMetric(StreamingMetric):
    """Dice of all pixels pooled at the threshold that makes it largest, in [0, 1]; NaN without positives.

    The threshold, chosen on the labels themselves, is left in ``threshold``: an upper bound, not a segmentation.
    """

    threshold = float("nan")

    def aggregate(self) -> float:
        """Return the largest Dice."""
        dice, self.threshold = best_dice(Curve.of(self.scores))
        return dice


class BalancedAccuracyMetric(StreamingMetric):
    """Mean of sensitivity and specificity at the best ``threshold``, in [0.5, 1]; NaN without both kinds."""

    threshold = float("nan")

    def aggregate(self) -> float:
        """Return the largest balanced accuracy."""
        accuracy, self.threshold = balanced_accuracy(Curve.of(self.scores))
        return accuracy
