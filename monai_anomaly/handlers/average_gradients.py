"""Training in several processes, each with its share of every batch."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import Optimizer

from monai_anomaly import ranks
from monai_anomaly.networks.blocks.shared_batch_norm import share_batch_norm


class AverageGradients:
    """Average the gradients over the processes before each of a trainer's steps.

    Any trainer of MONAI or of this package, with any number of networks and optimizers, stays as it is: torch's
    DistributedDataParallel wraps a network and hides its attributes, and its hooks do not follow a gradient penalty.
    The processes begin with the first one's weights, and batch normalization counts the images of all: where a step
    draws no noise, the weights are those of one process with the whole batch.

    Raises:
        ValueError: at the start of the run, a trainer that scales losses by itself is to use ``amp``: its processes
            could skip different steps.
    """

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        if isinstance(engine, SupervisedTrainer):  # before its loss scaler looks for overflows
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda engine: _average(engine.optimizer))

    @staticmethod
    def _start(engine: Engine) -> None:
        for module in _of_kind(engine, nn.Module):
            ranks.copy_from_first(module)
            share_batch_norm(module, engine.state.device)
        if isinstance(engine, SupervisedTrainer):
            return
        if getattr(engine, "amp", False):
            msg = f"{type(engine).__name__} takes no amp in several processes; leave amp false."
            raise ValueError(msg)
        for optimizer in _of_kind(engine, Optimizer):
            optimizer.register_step_pre_hook(lambda optimizer, *_: _average(optimizer))


def _average(optimizer: Optimizer) -> None:
    ranks.average_gradients([parameter for group in optimizer.param_groups for parameter in group["params"]])


def _of_kind(engine: Engine, kind: type) -> list[Any]:
    """Return an engine's attributes of a kind, each once."""
    return list({id(value): value for value in vars(engine).values() if isinstance(value, kind)}.values())
