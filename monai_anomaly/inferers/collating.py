"""Any inferer for programs that add the batch dimension themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.data import MetaTensor, list_data_collate
from monai.inferers import Inferer
from torch import Tensor


class CollatingInferer(Inferer):
    """Hand an image to another inferer as a data loader would, with its metadata as that of a batch of one.

    MONAI Label gives an image a batch dimension, but not its metadata, and decollates what an inferer returns: of a
    dictionary each entry would get a row of the affine instead of the affine.

    Args:
        inferer: the one that does the work; all its attributes are this one's.

    Shape:
        as of the inferer.
    """

    def __init__(self, inferer: Inferer) -> None:
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the inferer returns."""
        if isinstance(inputs, MetaTensor) and not inputs.is_batch and len(inputs) == 1:
            inputs = list_data_collate([inputs[0]])
        return self.inferer(inputs, network, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return the inferer's attribute."""
        if name == "inferer":  # not there yet, as in a copy
            raise AttributeError(name)
        return getattr(self.inferer, name)
