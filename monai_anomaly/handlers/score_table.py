"""Scores of every case, and of every slice of a volume, as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly.data.writers import write_atomically
from monai_anomaly.keys import ANOMALY_SCORE, CASE


class ScoreTable:
    """Write ``scores.csv`` (case, anomaly score) and, for volumes, ``slice_scores.csv`` (case, slice, anomaly score).

    A volume's score is the highest of its slices. The tables are written anew after each case, so that an interrupted
    run leaves whole tables of what was done.

    Args:
        output_dir: where the tables go.
        provenance_of: a detector whose ``feature_provenance`` is noted in a column, None for no column.
    """

    def __init__(self, output_dir: str | Path, provenance_of: Any = None) -> None:
        self.folder = Path(output_dir)
        self.provenance_of = provenance_of
        self.rows: list[tuple[Any, ...]] = []
        self.slice_rows: list[tuple[Any, ...]] = []

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Add the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            case = item.get(CASE, f"case {engine.state.iteration}")
            scores = convert_to_tensor(output[ANOMALY_SCORE]).flatten().tolist()
            features = () if self.provenance_of is None else (self.provenance_of.feature_provenance,)
            self.rows.append((case, max(scores), *features))
            if len(scores) > 1:
                self.slice_rows += [(case, index, score) for index, score in enumerate(scores)]
            self._write()

    def _write(self) -> None:
        columns = ("case", "anomaly_score", *(() if self.provenance_of is None else ("features",)))
        _write_csv(self.folder / "scores.csv", [columns, *self.rows])
        if self.slice_rows:
            _write_csv(self.folder / "slice_scores.csv", [("case", "slice", "anomaly_score"), *self.slice_rows])


def _write_csv(file: Path, rows: list[tuple[Any, ...]]) -> None:
    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows(rows)

    write_atomically(file, write)
