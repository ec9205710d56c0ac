"""Stochastic weight averaging around a MONAI trainer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from tqdm import tqdm

from monai_anomaly.checks import check_range

logger = logging.getLogger(__name__)


class WeightAveraging:
    """Average the weights of the last epochs, at a learning rate of their own, and give the network the average.

    torch's ``swa_utils``: until ``start_epoch`` the given scheduler steps once an epoch, from there on `SWALR` does,
    and each epoch's weights go into the average. When the run is over the network takes the average over, and its batch
    normalization learns its statistics anew from the training data. Attach it before what saves the network.

    Args:
        network: that is trained.
        optimizer: of its weights.
        lr_scheduler: of the epochs before; this handler steps it.
        start_epoch: epochs before the first one averaged, at least 1; None for no averaging.
        learning_rate: of the averaged epochs (Kahrs et al.: 0.01).
        anneal_epochs: over which the learning rate gets there (10).
        data_loader: training batches, "image" (B, C, H, W), for the batch normalization.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        start_epoch: int | None,
        learning_rate: float,
        data_loader: Iterable[Any],
        anneal_epochs: int = 10,
    ) -> None:
        if start_epoch is not None:
            check_range("start_epoch", start_epoch, 1)
        check_range("learning_rate", learning_rate, 0, low_open=True)
        self.network, self.lr_scheduler, self.start_epoch = network, lr_scheduler, start_epoch
        self.data_loader = data_loader
        self.average = None if start_epoch is None else AveragedModel(network)
        self.scheduler = None if start_epoch is None else SWALR(optimizer, learning_rate, anneal_epochs, "cos")

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the schedulers, for a training that is resumed."""
        swa = {} if self.scheduler is None else self.scheduler.state_dict()
        plain = {name: value for name, value in swa.items() if not callable(value)}  # as weights_only can load
        average = {} if self.average is None else self.average.state_dict()
        return {"average": average, "before": self.lr_scheduler.state_dict(), "swa": plain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the average and the schedulers of the interrupted training."""
        self.lr_scheduler.load_state_dict(state["before"])
        if self.average is not None and self.scheduler is not None:
            self.average.load_state_dict(state["average"])
            self.scheduler.load_state_dict(state["swa"])

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, self._check)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _check(self, engine: Engine) -> None:
        epochs = engine.state.max_epochs or 0
        if self.start_epoch is not None and self.start_epoch >= epochs:
            msg = (
                f"The averaging would start after epoch {self.start_epoch}, of {epochs}: expected fewer "
                f"(--swa_start N), or none (--swa_start null)."
            )
            raise ValueError(msg)

    def __call__(self, engine: Engine) -> None:
        """Step the learning rate, and take the epoch's weights into the average."""
        if self.scheduler is None or self.average is None or engine.state.epoch < (self.start_epoch or 0):
            self.lr_scheduler.step()
            return
        if engine.state.epoch > (self.start_epoch or 0):
            self.average.update_parameters(self.network)
        self.scheduler.step()

    def _finish(self, engine: Engine) -> None:
        if self.average is None:
            return
        count = int(self.average.n_averaged)
        self.network.load_state_dict(self.average.module.state_dict())
        batches = tqdm(self.data_loader, desc="batch statistics", unit="batch", disable=None)
        update_bn((batch["image"] for batch in batches), self.network, device=engine.state.device)
        logger.info("the network's weights are the mean of the last %d epochs'", count)
