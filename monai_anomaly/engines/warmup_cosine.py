"""A learning rate that warms up and then falls, but not to nothing."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from monai_anomaly.checks import check_range


def warmup_cosine(optimizer: Optimizer, warmup_epochs: int, num_epochs: int, end_fraction: float = 0.5) -> LambdaLR:
    """Return a schedule: linear over the warm-up, from 0 before its first epoch, then half a cosine to a fraction.

    MONAI's WarmupCosineSchedule cuts its cosine off at the final rate; this one ends there.

    Args:
        optimizer: whose rate is the highest one.
        warmup_epochs: at least 0, fewer than ``num_epochs`` (ReSynthDetect: 50).
        num_epochs: in all.
        end_fraction: of the highest rate, in the end, in [0, 1] (ReSynthDetect: 2.5e-5 of 5e-5).

    Raises:
        ValueError: numbers out of range.
    """
    check_range("num_epochs", num_epochs, 1)
    check_range("warmup_epochs", warmup_epochs, 0, num_epochs - 1)
    check_range("end_fraction", end_fraction, 0, 1)

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return (epoch + 1) / (warmup_epochs + 1)
        progress = min(1.0, (epoch - warmup_epochs) / (num_epochs - warmup_epochs))
        return end_fraction + (1 - end_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
