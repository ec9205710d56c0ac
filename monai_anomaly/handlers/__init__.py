"""What happens around a run: tables, pictures, reports and failures."""

from .evaluation_report import EvaluationReport
from .failure_report import FailureReport
from .fitted_checkpoint import FittedCheckpoint
from .map_overlays import MapOverlays
from .score_table import ScoreTable

__all__ = ["EvaluationReport", "FailureReport", "FittedCheckpoint", "MapOverlays", "ScoreTable"]
