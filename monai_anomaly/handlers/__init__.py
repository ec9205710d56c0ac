"""What happens around a run: tables, pictures, reports, failures and checkpoints."""

from .calibrate_on_healthy import CalibrateOnHealthy
from .cut_progress import CutProgress
from .evaluation_report import EvaluationReport
from .failure_report import FailureReport
from .fitted_checkpoint import FittedCheckpoint
from .loss_table import LossTable
from .map_overlays import MapOverlays
from .score_table import ScoreTable
from .training_checkpoint import TrainingCheckpoint

__all__ = [
    "CalibrateOnHealthy",
    "CutProgress",
    "EvaluationReport",
    "FailureReport",
    "FittedCheckpoint",
    "LossTable",
    "MapOverlays",
    "ScoreTable",
    "TrainingCheckpoint",
]
