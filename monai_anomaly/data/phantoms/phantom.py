"""What a phantom consists of, and the noise phantoms are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from monai_anomaly.checks import check_option


@dataclass
class Phantom:
    """An image with its truth.

    Args:
        image: (H, W, 3) uint8 for photographs, (I, J, K) for volumes.
        label: lesions by kind, on the image's grid without channels, uint8, 0 for none.
        kinds: the numbers in ``label`` by the lesions' names.
        affine: (4, 4) voxel to RAS+ mm.
        structures: further truths by name: masks on the grid, or heights in voxels.
    """

    image: np.ndarray
    label: np.ndarray
    kinds: dict[str, int]
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    structures: dict[str, np.ndarray] = field(default_factory=dict)


def check_lesions(lesions: Sequence[str], kinds: dict[str, int]) -> None:
    """Check that every lesion asked for is of a known kind.

    Raises:
        ValueError: one is not.
    """
    for lesion in lesions:
        check_option("lesion", lesion, list(kinds))


def smooth_noise(
    rng: np.random.Generator, shape: Sequence[int], scale: float | Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return noise of mean 0 and standard deviation 1 whose structures are about ``scale`` voxels large."""
    scales = np.broadcast_to(np.asarray(scale, dtype=float), (len(shape),))
    # made on a coarse grid and enlarged: the cost does not grow with the scale
    steps = [max(1, int(s / 3)) for s in scales]
    coarse = rng.standard_normal([-(-n // step) + 4 for n, step in zip(shape, steps, strict=True)])
    coarse = ndimage.gaussian_filter(coarse, [s / step for s, step in zip(scales, steps, strict=True)], mode="wrap")
    for axis, (n, step) in enumerate(zip(shape, steps, strict=True)):
        position = np.arange(n) / step + 1
        low = position.astype(int)
        part = (position - low).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        coarse = np.take(coarse, low, axis) * (1 - part) + np.take(coarse, low + 1, axis) * part
    return (coarse - coarse.mean()) / max(float(coarse.std()), 1e-12)


def ellipsoid_distance(
    shape: Sequence[int],
    center: Sequence[float] | np.ndarray,
    radii: Sequence[float] | np.ndarray,
    angle: float = 0.0,
) -> np.ndarray:
    """Return the distance from a center in units of the radii (1 on the surface), turned in the first two axes."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    offsets = [grid - c for grid, c in zip(grids, center, strict=True)]
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = [offsets[0] * cosine + offsets[1] * sine, offsets[1] * cosine - offsets[0] * sine, *offsets[2:]]
    squares = [(offset / radius) ** 2 for offset, radius in zip(turned, radii, strict=True)]
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    return np.sqrt(total)
