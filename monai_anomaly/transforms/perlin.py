"""Gradient noise, for shapes that no ruler drew.

Perlin 1985, "An image synthesizer"; with the quintic fade of Perlin 2002, as DRAEM uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_anomaly.checks import check_range


def perlin_noise(shape: Sequence[int], cells: Sequence[int], rng: np.random.RandomState) -> np.ndarray:
    """Return Perlin noise (H, W), float32 in [-1, 1], 0 at the lattice's nodes.

    Any size goes with any lattice: the lattice is stretched over the image, so that nothing need be divisible.

    Args:
        shape: height and width.
        cells: of the lattice along height and width; more of them make finer noise.
        rng: where the gradients come from.

    Raises:
        ValueError: numbers below 1.
    """
    for name, values in (("shape", shape), ("cells", cells)):
        check_range(name, min(values), 1)
    angles = (2 * np.pi * rng.random_sample((cells[0] + 1, cells[1] + 1))).astype(np.float32)
    axes = [np.arange(n, dtype=np.float32) * np.float32(count / n) for n, count in zip(shape, cells, strict=True)]
    nodes = [np.minimum(axis.astype(np.int64), count - 1) for axis, count in zip(axes, cells, strict=True)]
    row, column = nodes
    y, x = ((axis - node).astype(np.float32) for axis, node in zip(axes, nodes, strict=True))
    fade = [t * t * t * (t * (t * 6 - 15) + 10) for t in (y, x)]
    sine, cosine = np.sin(angles), np.cos(angles)

    def corner(down: int, right: int) -> np.ndarray:
        """Return the gradient of a corner of each pixel's cell times the way from there."""
        at = np.ix_(row + down, column + right)
        return sine[at] * (y - down)[:, None] + cosine[at] * (x - right)[None]

    top = corner(0, 0) + fade[1][None] * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade[1][None] * (corner(1, 1) - corner(1, 0))
    return np.asarray(np.sqrt(2) * (top + fade[0][:, None] * (bottom - top)), dtype=np.float32)
