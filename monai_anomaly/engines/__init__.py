"""Engines: MONAI's, with what anomaly detectors need beside a gradient step."""

from .ascnet import CutHistogram, SelectiveCutTrainer, kernel_penalty_groups
from .case_evaluator import CaseEvaluator
from .feature_store import FeatureStore
from .ganomaly import GANomalyTrainer
from .memory_bank_fitter import MemoryBankFitter
from .reals import prepare_reals
from .refinement import ClassTargets, RefinementTrainer, focus_mask
from .registration import prepare_pair
from .segmentation import prepare_guided
from .selective_cut_schedule import CutReadings, CutStep, cut_readings, cut_schedule
from .warmup_cosine import warmup_cosine

__all__ = [
    "CaseEvaluator",
    "ClassTargets",
    "CutHistogram",
    "CutReadings",
    "CutStep",
    "FeatureStore",
    "GANomalyTrainer",
    "MemoryBankFitter",
    "RefinementTrainer",
    "SelectiveCutTrainer",
    "cut_readings",
    "cut_schedule",
    "focus_mask",
    "kernel_penalty_groups",
    "prepare_guided",
    "prepare_pair",
    "prepare_reals",
    "warmup_cosine",
]
