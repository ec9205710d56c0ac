"""Patches of another image blended in without a seam: gradients of the one, borders of the other.

Perez et al. 2003, "Poisson image editing", as OpenCV's seamlessClone does it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from monai_anomaly.checks import check_option

BLENDS = ("mixed", "normal")

_EROSIONS = 3  # of the mask, OpenCV's


def poisson_blend(destination: np.ndarray, patch: np.ndarray, mask: np.ndarray, blend: str = "mixed") -> np.ndarray:
    """Return a rectangle of an image with a patch blended in; its border stays.

    Solves the Poisson equation over the whole rectangle by sine transforms as matrix products: cost n^1.5 of its n
    pixels. Where OpenCV's 8-bit ``seamlessClone`` applies, both agree to a gray level.

    Args:
        destination: the rectangle, (h, w, C), of any scale.
        patch: the same shape.
        mask: (h, w), above 0 where the patch's gradients count, less 3 pixels at its border and the rectangle's.
        blend: "normal": all of them; "mixed": those for which |d_x - d_y| is larger than the destination's (OpenCV's
            test, not Perez's).

    Shape:
        output (h, w, C), float32, not clipped.

    Raises:
        ValueError: shapes that differ, a rectangle smaller than 3 x 3, or an unknown blend.
    """
    check_option("blend", blend, BLENDS)
    if destination.shape != patch.shape or destination.shape[:2] != mask.shape or min(mask.shape) < 3:
        msg = (
            f"Destination, patch and mask must be one rectangle of at least 3 x 3, got {destination.shape}, "
            f"{patch.shape} and {mask.shape}."
        )
        raise ValueError(msg)
    inside = ndimage.binary_erosion(mask > 0, np.ones((3, 3)), iterations=_EROSIONS)[..., None]
    target, source = destination.astype(np.float32), np.where(mask[..., None] > 0, patch, 0).astype(np.float32)
    own, other = _gradients(target), _gradients(source)
    if blend == "mixed":
        inside = inside & (np.abs(other[1] - other[0]) > np.abs(own[1] - own[0]))
    rows, columns = (np.where(inside, theirs, mine) for mine, theirs in zip(own, other, strict=True))
    divergence = rows[1:-1, 1:-1] - rows[:-2, 1:-1] + columns[1:-1, 1:-1] - columns[1:-1, :-2]
    return _solve(target, divergence)


def _gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return forward differences from row to row and from column to column, 0 at the last."""
    return np.diff(image, axis=0, append=image[-1:]), np.diff(image, axis=1, append=image[:, -1:])


def _solve(image: np.ndarray, divergence: np.ndarray) -> np.ndarray:
    """Return what has this divergence of gradients inside, (h - 2, w - 2, C), and the image's values on the border."""
    height, width = image.shape[:2]
    border = image.copy()
    border[1:-1, 1:-1] = 0
    known = border[:-2, 1:-1] + border[2:, 1:-1] + border[1:-1, :-2] + border[1:-1, 2:]
    right = divergence - known
    (left, rows), (other, columns) = (_sines(n) for n in (height, width))
    waves = left @ right.transpose(2, 0, 1) @ other / (rows[:, None] + columns)
    result = image.copy()
    result[1:-1, 1:-1] = (left @ waves @ other).transpose(1, 2, 0)
    return result


@lru_cache(maxsize=1024)
def _sines(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvectors and eigenvalues of the second difference of n pixels, the first and last of them fixed."""
    inner = np.arange(1, n - 1)
    vectors = np.sqrt(2 / (n - 1)) * np.sin(np.pi * np.outer(inner, inner) / (n - 1))
    return vectors.astype(np.float32), (2 * np.cos(np.pi * inner / (n - 1)) - 2).astype(np.float32)
