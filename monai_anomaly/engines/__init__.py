"""Engines: MONAI's, with what anomaly detectors need beside a gradient step."""

from .case_evaluator import CaseEvaluator
from .memory_bank_fitter import MemoryBankFitter

__all__ = ["CaseEvaluator", "MemoryBankFitter"]
