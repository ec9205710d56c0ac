"""What MONAI's SupervisedTrainer needs to train a registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def prepare_pair(
    batch: Mapping[str, Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor], dict[str, Any]]:
    """Return the moving image, what the loss compares, and the fixed image as a further argument (`prepare_batch`).

    Args:
        batch: see `monai_anomaly.data.RegistrationPairs`.
        device: where to.
        non_blocking: whether the copy may go on in the background.
        kwargs: of the copy.
    """
    names = ("moving", "moving_retina", "fixed", "fixed_retina")
    pair = {name: batch[name].to(device=device, non_blocking=non_blocking, **kwargs).float() for name in names}
    return pair["moving"], pair, (pair["fixed"],), {}
