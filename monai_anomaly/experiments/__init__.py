"""Experiments of papers as one command: trainings and evaluations that go on where they stopped, tables and figures."""

from .agm import run_agm
from .amnet import run_amnet

__all__ = ["EXPERIMENTS", "run_agm", "run_amnet"]

EXPERIMENTS = {"agm": run_agm, "amnet": run_amnet}
