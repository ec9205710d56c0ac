"""The loss of each epoch, in a table and on a picture."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from monai_anomaly import ranks
from monai_anomaly.data.writers import write_atomically

logger = logging.getLogger(__name__)


class LossTable:
    """Write and log the mean loss and the learning rate of each epoch of a MONAI trainer.

    Args:
        output_dir: where the table goes.
        file_name: of the table.
        losses: of the trainer's output; a GAN's trainer has several.

    Raises:
        RuntimeError: while running, a loss is not finite.
    """

    def __init__(
        self, output_dir: str | Path, file_name: str = "losses.csv", losses: Sequence[str] = ("loss",)
    ) -> None:
        self.file = Path(output_dir) / file_name
        self.rows: list[dict[str, Any]] = []
        self.losses = tuple(losses)
        self._losses: list[list[float]] = []
        self._rate = float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, for a training that is resumed."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the rows of the interrupted training."""
        self.rows = list(state["rows"])

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _start(self, engine: Any) -> None:
        optimizer = getattr(engine, "optimizer", None) or engine.g_optimizer
        self._rate = optimizer.param_groups[0]["lr"]
        self._losses = []

    def _note(self, engine: Engine) -> None:
        losses = [float(torch.as_tensor(engine.state.output[name]).detach().mean()) for name in self.losses]
        if not np.isfinite(losses).all():
            msg = f"The loss is not finite in epoch {engine.state.epoch}; lower the learning rate, or check the images."
            raise RuntimeError(msg)
        self._losses.append(losses)

    def __call__(self, engine: Any) -> None:
        """Add the epoch just done."""
        means = dict(zip(self.losses, map(ranks.mean, np.mean(self._losses, axis=0)), strict=True))
        row = {"epoch": engine.state.epoch, **means, "learning_rate": self._rate}
        self.rows.append(row)
        if not ranks.is_first():
            return
        told = ", ".join(f"{name} {value:.3e}" for name, value in means.items())
        logger.info("epoch %d of %d: %s", row["epoch"], engine.state.max_epochs, told)

        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
                writer.writerows(self.rows)

        write_atomically(self.file, write)
