"""What happens around a run: tables, pictures, reports, failures and checkpoints."""

from .average_gradients import AverageGradients
from .calibrate_on_healthy import CalibrateOnHealthy
from .case_files import CaseFiles
from .case_journal import CaseJournal
from .class_counts import ClassCounts
from .classification_report import ClassificationReport
from .cut_progress import CutProgress
from .evaluation_report import EvaluationReport
from .failure_report import CasesFailedError, FailureReport
from .fit_checkpoint import FitCheckpoint
from .fitted_checkpoint import FittedCheckpoint
from .keep_references import KeepReferences
from .label_overlays import LabelOverlays
from .lesion_map_figures import LesionMapFigures
from .loss_switch import LossSwitch
from .loss_table import LossTable
from .map_overlays import MapOverlays
from .overlap_report import OverlapReport
from .score_table import ScoreTable
from .segmentation_report import SegmentationReport
from .threshold_sweep import ThresholdSweep
from .tracking import Tracking
from .training_checkpoint import TrainingCheckpoint
from .volume_table import VolumeTable
from .weight_averaging import WeightAveraging

__all__ = [
    "AverageGradients",
    "CalibrateOnHealthy",
    "CaseFiles",
    "CaseJournal",
    "CasesFailedError",
    "ClassCounts",
    "ClassificationReport",
    "CutProgress",
    "EvaluationReport",
    "FailureReport",
    "FitCheckpoint",
    "FittedCheckpoint",
    "KeepReferences",
    "LabelOverlays",
    "LesionMapFigures",
    "LossSwitch",
    "LossTable",
    "MapOverlays",
    "OverlapReport",
    "ScoreTable",
    "SegmentationReport",
    "ThresholdSweep",
    "Tracking",
    "TrainingCheckpoint",
    "VolumeTable",
    "WeightAveraging",
]
