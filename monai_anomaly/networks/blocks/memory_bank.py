"""A bank of healthy feature vectors, and the distance of new ones to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_anomaly.checks import check_range
from monai_anomaly.networks.blocks.k_center_greedy import k_center_greedy
from monai_anomaly.networks.blocks.nearest_neighbors import CoarseBank, nearest_neighbors
from monai_anomaly.networks.blocks.random_projection import (
    johnson_lindenstrauss_dim,
    sparse_random_projection,
)
from monai_anomaly.networks.blocks.resizable_buffers import ResizableBuffers

_PROJECTION_CHUNK = 16384


class MemoryBank(ResizableBuffers):
    """Rows of healthy features; the distance to the nearest one says how unusual a feature is.

    d = min over b in B_c of ||b - c||_2 (Niu et al. 2023, Eqs. 6-7; Roth et al. 2022, PatchCore).

    Args:
        rows: rows to start with, (M, C); None leaves the bank to `fit` or to a checkpoint.
        num_neighbors: the distance is the mean over this many nearest rows (both papers: 1).
        precision: of the search's coarse pass, see `nearest_neighbors`.

    Shape:
        input (Q, C), output (Q,).

    Raises:
        ValueError: rows that are not (M, C).
        RuntimeError: searched before it was fitted.
    """

    def __init__(self, rows: Tensor | None = None, num_neighbors: int = 1, precision: str = "auto") -> None:
        super().__init__()
        check_range("num_neighbors", num_neighbors, 1)
        if rows is not None and rows.ndim != 2:
            msg = f"rows must be (M, C), got {tuple(rows.shape)}."
            raise ValueError(msg)
        self.num_neighbors = num_neighbors
        self.precision = precision
        self._coarse: CoarseBank | None = None
        self.register_buffer("rows", torch.empty(0, 0) if rows is None else rows.float())
        self.rows: Tensor

    @property
    def is_fitted(self) -> bool:
        """Whether there are rows."""
        return len(self.rows) > 0

    def fit(
        self,
        features: Tensor,
        fraction: float = 0.1,
        *,
        num_rows: int | None = None,
        eps: float | None = 0.9,
        seed: int = 0,
        progress: bool = False,
    ) -> Tensor:
        """Keep the k-center greedy coreset of ``features`` and return the indices of its rows.

        Args:
            features: (N, C) of all healthy images.
            fraction: of the rows to keep, in (0, 1] (ReSAD and PatchCore: 0.1); at least one row is kept.
            num_rows: to keep, instead of a fraction.
            eps: distortion of the sparse random projection the picks are made in (ReSAD, section 4.3: 0.9); None
                picks in the full space.
            seed: of the projection and of the first pick.
            progress: show a bar.

        Raises:
            ValueError: fraction outside (0, 1], num_rows outside 1 to N, features not (N, C) or not finite.
        """
        check_range("fraction", fraction, 0, 1, low_open=True)
        num_rows = max(1, int(len(features) * fraction)) if num_rows is None else num_rows
        check_range("num_rows", num_rows, 1, len(features))
        if num_rows == len(features):
            picks = torch.arange(num_rows)
        else:
            start = int(torch.randint(len(features), (), generator=torch.Generator().manual_seed(seed)))
            space = features if eps is None else project(features, eps, seed)
            picks = k_center_greedy(space, num_rows, start, progress=progress)
            del space  # before the rows are copied
        self.rows = features[picks.to(features.device)].float().to(self.rows.device)
        self._coarse = None
        return picks

    def search(self, queries: Tensor, num_neighbors: int | None = None) -> tuple[Tensor, Tensor]:
        """Return distances and row indices of the nearest rows, each (Q, num_neighbors)."""
        if not self.is_fitted:
            msg = "The memory bank is empty: fit it on healthy images (train.yaml) or load a fitted one (--ckpt_path)."
            raise RuntimeError(msg)
        count = min(self.num_neighbors if num_neighbors is None else num_neighbors, len(self.rows))
        if torch.compiler.is_exporting():
            return _exported_search(queries, self.rows, count)
        if self._coarse is None or self._coarse.origin.device != self.rows.device:
            self._coarse = CoarseBank(self.rows, self.precision)
        return nearest_neighbors(queries, self.rows, count, coarse=self._coarse)

    def forward(self, queries: Tensor) -> Tensor:
        """Return each query's mean distance to its nearest rows, (Q,)."""
        return self.search(queries)[0].mean(1)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._coarse = None
        super()._load_from_state_dict(*args, **kwargs)


def _exported_search(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Search without asking what the values are, as a graph must: candidates by a product, distances by differences."""
    most = min(count + 7, len(rows))
    squared = torch.addmm((rows * rows).sum(1), queries, rows.T, alpha=-2)
    candidates = squared.topk(most, dim=1, largest=False).indices
    distances = (queries[:, None] - rows[candidates]).square().sum(2).sqrt()
    nearest = distances.topk(count, dim=1, largest=False)
    return nearest.values, candidates.gather(1, nearest.indices)


def project(features: Tensor, eps: float, seed: int, num_points: int | None = None) -> Tensor:
    """Return the features in the Johnson-Lindenstrauss dimensions, or as they are where that saves nothing.

    Args:
        features: (N, C).
        eps: distortion, in (0, 1).
        seed: of the matrix.
        num_points: among which distances are to be kept; None for N.
    """
    num_dims = johnson_lindenstrauss_dim(max(2, len(features) if num_points is None else num_points), eps)
    if num_dims >= features.shape[1]:
        return features
    matrix = sparse_random_projection(features.shape[1], num_dims, seed).to(features.device)
    projected = torch.empty(len(features), num_dims, device=features.device)
    for start in range(0, len(features), _PROJECTION_CHUNK):
        part = slice(start, start + _PROJECTION_CHUNK)
        torch.matmul(features[part].float(), matrix, out=projected[part])
    return projected
