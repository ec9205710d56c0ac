"""Metrics of anomaly maps, streaming: memory does not grow with the number of pixels."""

from .curves import Curve, average_precision, balanced_accuracy, best_dice, roc_auc
from .lesion_detection import LesionDetectionRateMetric, compare_masks, count_touched
from .overlap_table import OverlapTable, confusion, confusion_by_threshold
from .per_region_overlap import PerRegionOverlapMetric, per_region_overlap
from .pixel_metrics import (
    BalancedAccuracyMetric,
    BestDiceMetric,
    PixelAveragePrecisionMetric,
    PixelROCAUCMetric,
    StreamingMetric,
)
from .score_distribution import LabeledScores, ScoreDistribution

__all__ = [
    "BalancedAccuracyMetric",
    "BestDiceMetric",
    "Curve",
    "LabeledScores",
    "LesionDetectionRateMetric",
    "OverlapTable",
    "PerRegionOverlapMetric",
    "PixelAveragePrecisionMetric",
    "PixelROCAUCMetric",
    "ScoreDistribution",
    "StreamingMetric",
    "average_precision",
    "balanced_accuracy",
    "best_dice",
    "compare_masks",
    "confusion",
    "confusion_by_threshold",
    "count_touched",
    "per_region_overlap",
    "roc_auc",
]
