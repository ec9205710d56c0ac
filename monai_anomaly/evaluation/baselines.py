"""Maps nobody had to learn. They stand in every table, because they beat several published networks.

Meissen et al. 2021 found the thresholded, histogram-equalized FLAIR ahead of most networks; bright and dark spots of
the green channel are what a person would try first on fundus photographs.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_anomaly.transforms.content_mask import content_mask

TOP_HAT_FRACTION = 0.02
"""Radius of the top-hats' disk over the shorter side of a slice: about 16 px of 784, a large exudate."""


def trivial_maps(
    image: Tensor, slice_axis: int = 2, seed: int = 0, content: Tensor | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield names and maps (1, ...) of the trivial methods.

    "constant"; "random", uniform noise; "intensity", the mean of the channels; "equalized intensity", its rank within
    the image's content; "white top-hat", "black top-hat" and "larger top-hat", spots brighter or darker than their
    surroundings in the green (else the only) channel, slice by slice; "darkness in the organ", where ``content`` tells
    which pixels are the organ.

    Args:
        image: (C, H, W) or (C, I, J, K), of any scale.
        slice_axis: of volumes.
        seed: of the noise.
        content: (1, ...), above 0 in the organ; None where nobody knows.
    """
    plain = convert_to_tensor(image).float()
    mean = plain.mean(0, keepdim=True)
    yield "constant", torch.zeros_like(mean)
    yield "random", torch.rand(mean.shape, generator=torch.Generator().manual_seed(seed))
    yield "intensity", mean
    yield "equalized intensity", equalize(mean)
    channel = plain[1 if len(plain) == 3 else 0]
    white, black = _top_hats(channel.numpy(), slice_axis)
    yield "white top-hat", torch.from_numpy(white)[None]
    yield "black top-hat", torch.from_numpy(black)[None]
    yield "larger top-hat", torch.from_numpy(np.maximum(white, black))[None]
    if content is not None:
        yield "darkness in the organ", (mean.max() - mean) * (convert_to_tensor(content) > 0)


def equalize(mean: Tensor) -> Tensor:
    """Return an image after histogram equalization: ranks in [0, 1] among its content, 0 elsewhere."""
    inside = content_mask(mean)
    if not bool(inside.any()):
        return torch.zeros_like(mean)
    values = np.sort(mean[inside].numpy())
    count = min(1024, len(values))
    levels = values[np.linspace(0, len(values) - 1, count).astype(int)]
    ranks = np.interp(mean.numpy(), levels, np.linspace(0, 1, count))
    return torch.from_numpy(ranks).float() * inside


def _top_hats(channel: np.ndarray, slice_axis: int) -> tuple[np.ndarray, np.ndarray]:
    slices = np.moveaxis(channel, slice_axis, 0) if channel.ndim == 3 else channel[None]
    radius = max(1, round(TOP_HAT_FRACTION * min(slices.shape[1:])))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    both = []
    for operation in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
        result = np.stack([cv2.morphologyEx(np.ascontiguousarray(s), operation, disk) for s in slices])
        both.append(np.ascontiguousarray(np.moveaxis(result, 0, slice_axis) if channel.ndim == 3 else result[0]))
    return both[0], both[1]
