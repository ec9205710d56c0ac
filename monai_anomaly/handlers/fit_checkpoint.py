"""An interrupted fit goes on where its last block of images ended."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_anomaly import ranks
from monai_anomaly.checks import check_option
from monai_anomaly.data.skip_items import SkipItems
from monai_anomaly.data.writers import write_atomically

logger = logging.getLogger(__name__)


class FitCheckpoint:
    """Keep the features collected so far in a folder until the fit is over, and go on from them when it starts again.

    Takes as much of the disk as the features take of memory; where the disk refuses, the fit goes on without. Attach it
    after `FittedCheckpoint`. Each of several processes has a folder; a fit goes on with as many as it began with.

    Args:
        folder: made, and removed when the fit is over.
        dataset: of the images in the order of the fit, which leaves out those that are done.
        settings: plain values that a fit must share with the one that was interrupted.
        resume: "auto" goes on where there is something to go on with; False starts anew; True must find something.

    Raises:
        FileNotFoundError: there is nothing to resume.
        ValueError: the fit to resume was another one.
    """

    def __init__(
        self, folder: str | Path, dataset: SkipItems, settings: Mapping[str, Any], resume: bool | str = "auto"
    ) -> None:
        check_option("resume", resume, (True, False, "auto"))
        self.folder, self.dataset, self.resume = Path(folder), dataset, resume
        self._beside = self.folder.name + ".[0-9]*"  # of several processes
        self.settings = {name: str(value) for name, value in settings.items()}
        if ranks.count() > 1:
            self.folder = self.folder.with_name(f"{self.folder.name}.{ranks.index()}")
            self.settings["processes"] = str(ranks.count())
        self._num_parts = self._num_rows = 0
        self._refused = False
        if resume is True and not self._state.is_file():
            msg = f"{str(self._state)!r} does not exist; there is no fit to resume: start it without --resume."
            raise FileNotFoundError(msg)

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Any) -> None:
        self.dataset.first = self._num_parts = self._num_rows = 0
        if self.resume is False or not self._state.is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        state = json.loads(self._state.read_text(encoding="utf-8"))
        now = {**self.settings, "batches": engine.state.epoch_length}
        other = [name for name in {**state["settings"], **now} if state["settings"].get(name) != now.get(name)]
        if other:
            listed = "; ".join(f"{name} was {state['settings'].get(name)}, is {now.get(name)}" for name in other)
            remedy = "Take those settings again, or start anew with --resume False."
            msg = f"{self.folder} is of another fit: {listed}. {remedy}"
            raise ValueError(msg)
        files = [self._part(index) for index in range(state["parts"])]
        parts = (torch.load(file, map_location="cpu", weights_only=True) for file in files)
        engine.store.load_state_dict(state["store"], parts, engine.state.device)
        engine.failures[:] = [(case, reason) for case, reason in state["failures"]]
        self._num_parts, self._num_rows = state["parts"], len(engine.store.rows)
        self.dataset.first = engine.store.num_done
        logger.info("resumed after %d of %d images", engine.store.num_done, engine.state.epoch_length)

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finish(self) -> None:
        self._remove()
        if ranks.is_first():  # also those of runs with more processes
            for folder in self.folder.parent.glob(self._beside):
                shutil.rmtree(folder, ignore_errors=True)

    def _part(self, index: int) -> Path:
        return self.folder / f"features_{index:06d}.pt"

    def __call__(self, engine: Any) -> None:
        """Save what a block of images left."""
        store = engine.store
        if self._refused or not store.at_block_end or not store.num_seen or store.num_done <= self.dataset.first:
            return
        try:
            self._save(engine)
        except OSError as error:
            self._refused = True
            self._remove()
            logger.warning("the fit goes on, but could not go on after an interruption: %s", error)

    def _save(self, engine: Any) -> None:
        store = engine.store
        new = store.rows[self._num_rows :].cpu().clone()
        write_atomically(self._part(self._num_parts), lambda path: torch.save(new, path))
        self._num_parts, self._num_rows = self._num_parts + 1, len(store.rows)
        settings = {**self.settings, "batches": engine.state.epoch_length}
        state = {"settings": settings, "parts": self._num_parts, "store": store.state_dict()}
        text = json.dumps({**state, "failures": engine.failures}) + "\n"
        write_atomically(self._state, lambda path: path.write_text(text, encoding="utf-8"))
