"""What MONAI's SupervisedTrainer needs to train a segmenter that anomaly maps may guide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_anomaly.keys import ANOMALY_MAP


def prepare_guided(
    batch: Mapping[str, Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the image, and what the loss compares: "label", and "anomaly_map" where there is one (`prepare_batch`).

    Args:
        batch: "image" (B, C, H, W), "tissue" (B, 1, H, W), classes, and perhaps "anomaly_map" (B, 1, H, W).
        device: where to.
        non_blocking: whether the copy may go on in the background.
        kwargs: of the copy.
    """
    names = {"tissue": "label", ANOMALY_MAP: ANOMALY_MAP}
    options = {"device": device, "non_blocking": non_blocking, **kwargs}
    target = {name: batch[key].to(**options) for key, name in names.items() if key in batch}
    return batch["image"].to(**options), target
