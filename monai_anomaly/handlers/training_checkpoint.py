"""Interrupted trainings go on where their last epoch ended."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd

from monai_anomaly import ranks
from monai_anomaly.checks import check_file, check_option, check_range
from monai_anomaly.data.shared_batches import set_epoch
from monai_anomaly.data.writers import write_atomically

logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """Write everything a training needs to go on after each epoch or every few, and start from there.

    MONAI's CheckpointSaver writes in place: a run killed while it writes leaves half a file. Here the old checkpoint
    stays until the new one is whole. Every epoch is seeded by its number, so that a training that was interrupted ends
    with the weights of one that was not, bit by bit on a CPU. Of several processes the first one writes; each draws
    its own noise.

    Args:
        file: the checkpoint.
        objects: by name, whatever has ``state_dict`` and ``load_state_dict``: networks, optimizers, handlers.
        resume: True loads the file when the run starts; "auto" does where the training was interrupted: the file is
            there, and newer than ``final``; False starts anew.
        final: what the whole training leaves when it is over; None where it leaves nothing.
        save_interval: epochs between two savings, at least 1; the last one is always saved.
        seed: of the run.
        settings: plain values that a resumed training must share with the one that was interrupted.

    Raises:
        FileNotFoundError: there is nothing to resume.
        ValueError: the training to resume was another one.
    """

    def __init__(
        self,
        file: str | Path,
        objects: Mapping[str, Any],
        resume: bool | str = False,
        final: str | Path | None = None,
        save_interval: int = 1,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.file = Path(file)
        self.objects = dict(objects)
        check_option("resume", resume, (True, False, "auto"))
        check_range("save_interval", save_interval, 1)
        if resume is True:
            check_file("checkpoint", file, "there is no training to resume; start it without --resume.")
        self.resume = _was_interrupted(self.file, final) if resume == "auto" else bool(resume)
        self.save_interval = save_interval
        self.seed = seed
        self.settings = {name: str(value) for name, value in (settings or {}).items()}

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, self._load if self.resume else self._forget)
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save."""
        if not ranks.is_first():
            return
        over = bool(engine.should_terminate) or engine.state.epoch >= engine.state.max_epochs
        if engine.state.epoch % self.save_interval and not over:
            return
        progress = {"epoch": engine.state.epoch, "epoch_length": engine.state.epoch_length, "over": over}
        progress |= {"settings": self.settings, "max_epochs": engine.state.max_epochs}
        state = {name: value.state_dict() for name, value in self.objects.items()}
        write_atomically(self.file, lambda path: torch.save({"progress": progress, "objects": state}, path))

    def _forget(self) -> None:
        """Leave nothing of an earlier training that could be taken for this one's."""
        if ranks.is_first():
            self.file.unlink(missing_ok=True)

    def _seed(self, engine: Engine) -> None:
        set_epoch(engine.state.dataloader, engine.state.epoch)
        seed = self.seed + engine.state.epoch + 1_000_003 * ranks.index()
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - what others draw from
        torch.manual_seed(seed)
        set_rnd(getattr(engine.state.dataloader, "dataset", None), seed)

    def _load(self, engine: Engine) -> None:
        checkpoint = torch.load(self.file, map_location=engine.state.device, weights_only=True)
        progress, states = checkpoint["progress"], checkpoint["objects"]
        self._compare(progress, sorted(states), engine.state.epoch_length)
        for name, value in self.objects.items():
            value.load_state_dict(states[name])
        engine.state.epoch = progress["epoch"]
        engine.state.iteration = progress["epoch"] * progress["epoch_length"]
        ended_early = progress["over"] and progress["max_epochs"] == engine.state.max_epochs
        if ended_early or progress["epoch"] >= engine.state.max_epochs:
            logger.info("the training was over after epoch %d: what comes after it is done again", progress["epoch"])
            engine.terminate()
        else:
            logger.info("resumed after epoch %d of %d", progress["epoch"], engine.state.max_epochs)

    def _compare(self, progress: Mapping[str, Any], names: list[str], epoch_length: int) -> None:
        now = {**self.settings, "iterations an epoch": epoch_length, "objects": sorted(self.objects)}
        then = {**progress["settings"], "iterations an epoch": progress["epoch_length"], "objects": names}
        other = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        if other:
            listed = "; ".join(f"{name} was {then.get(name)}, is {now.get(name)}" for name in other)
            remedy = "Take those settings again, or start anew with --resume False."
            msg = f"{self.file} is of another training: {listed}. {remedy}"
            raise ValueError(msg)


def _was_interrupted(file: Path, final: str | Path | None) -> bool:
    """Whether a training left a checkpoint, and nothing that came after it."""
    if not file.is_file():
        return False
    return final is None or not Path(final).is_file() or file.stat().st_mtime_ns > Path(final).stat().st_mtime_ns
