"""White that registration leaves around turned B-scans."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from monai.utils import convert_to_tensor
from scipy import ndimage
from torch import Tensor

from monai_anomaly.checks import check_range


def fill_mask(image: Tensor, value: float = 250.0, margin: int = 3) -> Tensor:
    """Return where an image is pure white fill: bright areas that touch its border, with the frayed pixels along them.

    Args:
        image: (C, H, W) or (C, H, W, D), B-scans along the last axis.
        value: lowest of the fill, in the image's units (OCT2017: 250 of 255).
        margin: width of the frayed edge, in pixels, at least 0.

    Shape:
        output (1, H, W) or (1, H, W, D), bool.

    Raises:
        ValueError: a negative margin.
    """
    check_range("margin", margin, 0)
    plain = convert_to_tensor(image)
    ordered = plain.float() if plain.dtype == torch.uint16 else plain  # whose order torch does not know
    bright = np.asarray((ordered.amin(0) >= value).cpu())
    if not bright.any():
        return torch.from_numpy(bright)[None].to(image.device)
    planes = bright.reshape(*bright.shape[:2], -1).astype(np.uint8)
    solid = _each_plane(cv2.MORPH_OPEN, planes, np.ones((5, 5), np.uint8))
    frame = np.zeros_like(solid)
    frame[[0, -1]] = frame[:, [0, -1]] = 1
    fill = np.zeros_like(solid)
    for plane in np.flatnonzero((solid & frame).any((0, 1))):
        inside = solid[..., plane]
        fill[..., plane] = ndimage.binary_propagation(inside & frame[..., plane], np.ones((3, 3)), mask=inside)
    if margin and fill.any():
        fill = _each_plane(cv2.MORPH_DILATE, fill, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    return torch.from_numpy(fill.reshape(bright.shape) > 0)[None].to(image.device)


def _each_plane(operation: int, planes: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return a morphological operation on (H, W, D), in chunks of what OpenCV takes as channels."""
    parts = np.array_split(planes, -(-planes.shape[2] // 256), axis=2)
    done = [cv2.morphologyEx(np.ascontiguousarray(part), operation, kernel) for part in parts]
    return np.concatenate([part.reshape(*planes.shape[:2], -1) for part in done], axis=2)


def fill_of_scans(image: Tensor, value: float, depth_axis: int) -> Tensor:
    """Return `fill_mask` of B-scans whose A-scans run along any spatial axis."""
    return fill_mask(image.movedim(depth_axis + 1, 1), value).movedim(1, depth_axis + 1)
