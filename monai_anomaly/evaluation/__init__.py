"""Evaluation against untouched labels: protocols, trivial baselines, tables with intervals, figures."""

from .baselines import trivial_maps
from .bootstrap import bootstrap_interval
from .classification import classification_rows
from .conformal import conformal_threshold, threshold_row, threshold_rows
from .map_evaluation import Case, MapEvaluation, Protocol
from .mask_evaluation import MaskEvaluation
from .report import write_report
from .segmentation import SegmentationEvaluation
from .summary import summarize

__all__ = [
    "Case",
    "MapEvaluation",
    "MaskEvaluation",
    "Protocol",
    "SegmentationEvaluation",
    "bootstrap_interval",
    "classification_rows",
    "conformal_threshold",
    "summarize",
    "threshold_row",
    "threshold_rows",
    "trivial_maps",
    "write_report",
]
