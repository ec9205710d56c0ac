"""Experiments of papers as one command: trainings and evaluations that go on where they stopped, tables and figures."""

from collections.abc import Callable
from pathlib import Path

from .agm import run_agm
from .amnet import run_amnet
from .compare import run_compare
from .thresholds import run_thresholds, thresholds_text

__all__ = ["EXPERIMENTS", "run_agm", "run_amnet", "run_compare", "run_thresholds", "thresholds_text"]

EXPERIMENTS: dict[str, Callable[..., Path]] = {"agm": run_agm, "amnet": run_amnet}
