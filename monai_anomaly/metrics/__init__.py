"""Metrics of anomaly maps, streaming: memory does not grow with the number of pixels."""

from .curves import Curve, average_precision, balanced_accuracy, best_dice, roc_auc
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
    "PerRegionOverlapMetric",
    "PixelAveragePrecisionMetric",
    "PixelROCAUCMetric",
    "ScoreDistribution",
    "StreamingMetric",
    "average_precision",
    "balanced_accuracy",
    "best_dice",
    "per_region_overlap",
    "roc_auc",
]
