"""Experiments of papers as one command: trainings and evaluations that go on where they stopped, tables and figures."""

from .amnet import run_amnet

__all__ = ["EXPERIMENTS", "run_amnet"]

EXPERIMENTS = {"amnet": run_amnet}
