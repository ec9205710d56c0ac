"""Which pixels of an image show anything, and which are what scanners and skull stripping leave around it."""

from __future__ import annotations

import numpy as np
from monai.utils import convert_to_tensor
from torch import Tensor

_CONSTANT_SHARE = 0.25


def background_value(image: Tensor) -> float:
    """Return the value of the background: the one a quarter of the outermost layer or more has, else the lowest.

    Resampling leaves values below a background of 0 (ringing), so that the lowest value alone would not tell.

    Args:
        image: (C, ...); the channels are averaged.
    """
    mean = convert_to_tensor(image).float().mean(0).cpu().numpy()
    edge = np.concatenate([np.take(mean, i, axis).ravel() for axis in range(mean.ndim) for i in (0, -1)])
    values, counts = np.unique(edge, return_counts=True)
    most = int(counts.argmax())
    return float(values[most]) if counts[most] >= _CONSTANT_SHARE * len(edge) else float(mean.min())


def content_mask(image: Tensor) -> Tensor:
    """Return where the mean of the channels is above the background, (1, ...) bool."""
    return convert_to_tensor(image).float().mean(0, keepdim=True) > background_value(image)
