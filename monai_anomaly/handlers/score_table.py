"""Scores of every case, and of every slice of a volume, as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly.handlers.growing_table import GrowingTable
from monai_anomaly.keys import ANOMALY_SCORE, CASE


class ScoreTable:
    """Write ``scores.csv`` (case, anomaly score) and, for volumes, ``slice_scores.csv`` (case, slice, anomaly score).

    A volume's score is the highest of its slices. Rows are written as cases are done, so that an interrupted run leaves
    tables of those.

    Args:
        output_dir: where the tables go.
        provenance_of: a detector whose ``feature_provenance`` is noted in a column, None for no column.
    """

    def __init__(self, output_dir: str | Path, provenance_of: Any = None) -> None:
        self.cases = GrowingTable(Path(output_dir) / "scores.csv")
        self.slices = GrowingTable(Path(output_dir) / "slice_scores.csv")
        self.provenance_of = provenance_of

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        for table in (self.cases, self.slices):
            table.start(getattr(engine, "done_cases", ()))

    def _finish(self) -> None:
        for table in (self.cases, self.slices):
            table.finish()

    def __call__(self, engine: Engine) -> None:
        """Add the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            case = item.get(CASE, f"case {engine.state.iteration}")
            scores = convert_to_tensor(output[ANOMALY_SCORE]).flatten().tolist()
            features = {} if self.provenance_of is None else {"features": self.provenance_of.feature_provenance}
            if len(scores) > 1:
                rows = enumerate(scores)
                self.slices.add([{"case": case, "slice": index, "anomaly_score": score} for index, score in rows])
            self.cases.add([{"case": case, "anomaly_score": max(scores), **features}])
