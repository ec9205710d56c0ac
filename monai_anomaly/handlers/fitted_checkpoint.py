"""The weights of a detector that was fitted to the end."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_anomaly import ranks
from monai_anomaly.data.writers import write_atomically

logger = logging.getLogger(__name__)


class FittedCheckpoint:
    """Write a network's ``state_dict`` when a run has come to its end, whole or not at all.

    MONAI's CheckpointSaver with ``save_final`` also saves when the run fails: it would put an unfitted detector in the
    place of a good one. What is written is a plain state dict, as `CheckpointLoader` and MONAI's ``ckpt_export`` read.

    Args:
        file: to write, usually the bundle's ``models/model.pt``.
        network: whose state is saved.
    """

    def __init__(self, file: str | Path, network: nn.Module) -> None:
        self.file = Path(file)
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save."""
        del engine
        if ranks.is_first():
            states = self.network.state_dict()
            state = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in states.items()}
            write_atomically(self.file, lambda path: torch.save(state, path))
            logger.info("weights: %s", self.file)
        ranks.wait()  # what the others keep to go on with goes when these are there
