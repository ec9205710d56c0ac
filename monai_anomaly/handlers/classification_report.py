"""Probabilities of each image's lesions, and how well they tell them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly import ranks
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.classification import classification_rows
from monai_anomaly.evaluation.report import markdown_table, write_csv
from monai_anomaly.keys import CASE, PRESENT, PROBABILITIES

logger = logging.getLogger(__name__)


class ClassificationReport:
    """Write ``probabilities.csv``, a row per image or slice, and at the end ``classification.csv`` and ``.md``.

    Args:
        output_dir: where they go.
        class_names: of the lesions; a background behind them is left out.
        seed: of the bootstrap.
    """

    def __init__(self, output_dir: str | Path, class_names: Sequence[str], seed: int = 0) -> None:
        self.folder, self.names, self.seed = Path(output_dir), list(class_names), seed
        self.rows: list[dict[str, Any]] = []
        self.pairs: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Engine) -> None:
        """Add the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            said = convert_to_tensor(output[PROBABILITIES])[: len(self.names)].cpu().numpy()
            there = convert_to_tensor(item[PRESENT]).cpu().numpy() if PRESENT in item else np.full(said.shape, np.nan)
            for index, (p, y) in enumerate(zip(np.atleast_2d(said.T), np.atleast_2d(there.T), strict=True)):
                place = {"case": item[CASE], **({"slice": index} if said.ndim == 2 else {})}
                known = {f"{name}_present": value for name, value in zip(self.names, y.tolist(), strict=True)}
                self.rows.append({**place, **dict(zip(self.names, p.tolist(), strict=True)), **known})
                self.pairs.append(np.stack((p, y)))

    def _finish(self, engine: Engine) -> None:
        del engine
        rows, every = ranks.joined(self.rows), ranks.joined(self.pairs)
        if not rows or not ranks.is_first():
            return
        write_csv(self.folder / "probabilities.csv", rows)
        known = [pair for pair in every if not np.isnan(pair).any()]
        if not known:
            return
        pairs = np.stack(known)
        rows = classification_rows(pairs[:, 0], pairs[:, 1], self.names, self.seed)
        write_csv(self.folder / "classification.csv", rows)
        text = "\n".join(["# Classification", "", *markdown_table(rows), "", "Accuracy and F1 at 0.5.", ""])
        path = self.folder / "classification.md"
        write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
        logger.info("report: %s", path)
