"""What MONAI's GanTrainer needs to train on a data set's images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def prepare_reals(
    batch: Mapping[str, Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Return the images of a batch (`d_prepare_batch`).

    Args:
        batch: "image" (B, C, H, W).
        device: where to.
        non_blocking: whether the copy may go on in the background.
        kwargs: of the copy.
    """
    return batch["image"].to(device=device, non_blocking=non_blocking, **kwargs)
