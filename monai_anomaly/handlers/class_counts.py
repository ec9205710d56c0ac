"""How many images have each class, and an early end where a class is nobody's."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from ignite.engine import Engine, Events

from monai_anomaly import ranks
from monai_anomaly.keys import PRESENT

logger = logging.getLogger(__name__)


class ClassCounts:
    """Log after the first epoch of a run how many images had each class, and stop it where none had one.

    Labels that come from label files, B-scan by B-scan, are known only once they were read.

    Args:
        class_names: of the entries of "present" in the batches.

    Raises:
        ValueError: while running, no image had one of the classes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.names = list(class_names)
        self._counts, self._total, self._over = torch.zeros(len(self.names)), 0, False

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def __call__(self, engine: Engine) -> None:
        """Add the batch just done."""
        if self._over:
            return
        present = torch.as_tensor(engine.state.batch[PRESENT])
        self._counts += (present > 0.5).sum(0).cpu()
        self._total += len(present)

    def _finish(self, engine: Engine) -> None:
        del engine
        if self._over:
            return
        self._over = True
        self._counts = torch.stack(ranks.gathered(self._counts)).sum(0)
        self._total = sum(ranks.gathered(self._total))
        told = ", ".join(f"{name} {int(n)}" for name, n in zip(self.names, self._counts.tolist(), strict=True))
        logger.info("of %d images: %s", self._total, told)
        if not self._counts.all():
            absent = self.names[int((self._counts == 0).nonzero()[0])]
            msg = (
                f"None of the {self._total} images has {absent!r}; leave it out of class_names, check lesion_values, "
                "or give images of it."
            )
            raise ValueError(msg)
