"""How a training of ASC-Net goes: every loss in a table, and a figure after each cycle."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from monai_anomaly import ranks
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.ascnet import save_cut_figure

COLUMNS = ("epoch", "stage", "cycle", "module", "discriminator", "fence", "disjointness", "reconstruction")


class CutProgress:
    """Write ``losses.csv`` after each pass of a `SelectiveCutTrainer`, and a figure in ``cycles`` after each cycle.

    Args:
        output_dir: where they go.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.folder = Path(output_dir)
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, for a training that is resumed."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the rows of the interrupted training."""
        self.rows = list(state["rows"])

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Add the pass just done."""
        step = engine.step
        losses = {name: float(np.mean(values)) for name, values in engine.epoch_losses.items()}
        place = {"epoch": engine.state.epoch, "stage": step.stage, "cycle": step.cycle, "module": step.module}
        self.rows.append({**place, **losses})
        if not ranks.is_first():
            return

        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(self.rows)

        write_atomically(self.folder / "losses.csv", write)
        if step.ends_cycle:
            file = self.folder / "cycles" / f"stage{step.stage}_cycle{step.cycle}.png"
            look = engine.histogram
            title = f"stage {step.stage}, cycle {step.cycle}: {look.num_peaks} peaks stand apart"
            save_cut_figure(file, look.examples, look.counts, look.threshold, title)
