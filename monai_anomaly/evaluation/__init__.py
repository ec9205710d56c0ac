"""Evaluation against untouched labels: protocols, trivial baselines, tables with intervals, figures."""

from .baselines import trivial_maps
from .bootstrap import bootstrap_interval
from .map_evaluation import Case, MapEvaluation, Protocol
from .mask_evaluation import MaskEvaluation
from .report import write_report
from .summary import summarize

__all__ = [
    "Case",
    "MapEvaluation",
    "MaskEvaluation",
    "Protocol",
    "bootstrap_interval",
    "summarize",
    "trivial_maps",
    "write_report",
]
