"""Random projection that keeps distances (Johnson and Lindenstrauss 1984; Li et al. 2006, very sparse)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_anomaly.checks import check_range


def johnson_lindenstrauss_dim(num_points: int, eps: float = 0.9) -> int:
    """Return the dimensions that keep all squared distances of ``num_points`` points within a factor 1 ± eps.

    4 ln N / (eps^2 / 2 - eps^3 / 3), as in scikit-learn (Dasgupta and Gupta 2003).

    Args:
        num_points: number of points, at least 2.
        eps: distortion, in (0, 1) (ReSAD, section 4.3: 0.9).

    Raises:
        ValueError: eps outside (0, 1), or fewer than two points.

    >>> johnson_lindenstrauss_dim(134 * 98 * 98)  # the 134 healthy training images of IDRiD at 784 x 784
    347
    """
    check_range("num_points", num_points, 2)
    check_range("eps", eps, 0, 1 - 1e-9, low_open=True)
    return int(4 * math.log(num_points) / (eps**2 / 2 - eps**3 / 3))


def sparse_random_projection(in_dim: int, out_dim: int, seed: int = 0) -> Tensor:
    """Return a very sparse random matrix: density 1 / sqrt(in_dim), entries ± sqrt(1 / density) / sqrt(out_dim).

    Shape:
        output (in_dim, out_dim), dense float32; project with ``features @ matrix``.
    """
    generator = torch.Generator().manual_seed(seed)
    density = 1 / math.sqrt(in_dim)
    kept = torch.rand(in_dim, out_dim, generator=generator) < density
    signs = torch.randint(0, 2, (in_dim, out_dim), generator=generator) * 2 - 1
    return kept * signs * math.sqrt(1 / (density * out_dim))
