"""Networks that know what their classes are called, and refuse weights of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


class NamedClasses(nn.Module):
    """A network whose state dict holds the names of its classes, beside the tensors, as plain text.

    Weights of a network with the same number of classes in another order fit, and would swap lesions in silence.

    Args:
        class_names: in their order; empty to take any weights.
    """

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.class_names = [str(name) for name in class_names]

    def get_extra_state(self) -> dict[str, list[str]]:
        """Return the names, for the state dict."""
        return {"class_names": self.class_names}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Compare the names of a state dict that is loaded with the network's own.

        Raises:
            ValueError: both have names, and others.
        """
        found = list(state.get("class_names", ()))
        if found and self.class_names and found != self.class_names:
            msg = (
                f"The weights are of the classes {', '.join(found)}, expected {', '.join(self.class_names)}: set "
                f"class_names to what they were trained with, in that order."
            )
            raise ValueError(msg)
