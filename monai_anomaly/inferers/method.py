"""What a network gives when it is trained, where that is not its anomaly map."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor


class MethodInferer(Inferer):
    """Call a method of the network instead of the network: its logits, its reconstruction.

    Args:
        method: the method's name.
        amp: on a CPU, compute in bfloat16 and return float32: twice as fast where the processor has such units. (The
            `amp` of MONAI's engines speaks to CUDA only.)

    Raises:
        AttributeError: while running, the network has no such method.
    """

    def __init__(self, method: str, amp: bool = False) -> None:
        self.method = method
        self.amp = amp

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns."""
        call = getattr(network, self.method)
        if not self.amp or inputs.device.type != "cpu":
            return call(inputs, *args, **kwargs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = call(inputs, *args, **kwargs)
        if isinstance(result, dict):
            return {name: part.float() for name, part in result.items()}
        return tuple(part.float() for part in result) if isinstance(result, tuple) else result.float()
