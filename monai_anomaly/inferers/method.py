"""What a network gives when it is trained, where that is not its anomaly map."""

from __future__ import annotations

from typing import Any

from monai.inferers import Inferer
from torch import Tensor


class MethodInferer(Inferer):
    """Call a method of the network instead of the network: its logits, its reconstruction.

    Args:
        method: the method's name.

    Raises:
        AttributeError: while running, the network has no such method.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns."""
        return getattr(network, self.method)(inputs, *args, **kwargs)
