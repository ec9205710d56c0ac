"""Terms of a loss that come in later."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events


class LossSwitch:
    """Set a switch of a loss from the epoch after ``after_epoch`` on, also in a training that was resumed.

    Args:
        loss: whose attribute is set.
        name: of the attribute, a bool.
        after_epoch: the last epoch without, at least 0.

    Raises:
        AttributeError: the loss has no such switch.
    """

    def __init__(self, loss: Any, name: str, after_epoch: int) -> None:
        if not isinstance(getattr(loss, name, None), bool):
            msg = f"{type(loss).__name__} has no switch {name!r}."
            raise AttributeError(msg)
        self.loss, self.name, self.after_epoch = loss, name, after_epoch

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set it."""
        setattr(self.loss, self.name, engine.state.epoch > self.after_epoch)
