"""Farthest-first traversal: the coreset of a memory bank, exact, lazy and blocked.

Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; Sener and Savarese 2018, k-center greedy,
as PatchCore and ReSAD use it.

The plain form reads every point once per pick. This one keeps, for each point, an upper bound on its squared distance
to the picked set together with the number of picks the bound knows of. A bound can only fall, so a point whose bound
is below the best exact distance need not be looked at. Each round takes the block of points with the largest bounds,
brings them up to date by matrix products against the picks they have missed, and then picks inside the block for as
long as its best stays above the largest bound outside. The picks are those of the plain form, floating-point ties
aside.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monai_anomaly.checks import check_range

_NUM_CENTERS = 128  # in one product: more of them compare rows with centers they know, fewer are slower to multiply
_POOL_SIZE = 256  # candidates among which picks are made from one table of their distances


class _Bounds:
    """Upper bounds on squared distances to the centers, and how many centers each bound has seen."""

    def __init__(self, features: Tensor, num_centers: int, block_size: int) -> None:
        num_rows, num_dims = features.shape
        self.features = features
        # distances do not depend on the origin; with the mean taken off, float32 keeps more of their digits
        self.origin = features[:: max(1, num_rows // 4096)].mean(0, dtype=torch.float32)
        self.picks = torch.empty(num_centers, dtype=torch.int64, device=features.device)
        self.center_norms = torch.empty(num_centers, device=features.device)
        self.num_centers = 0
        self.bounds = torch.full((num_rows,), float("inf"), device=features.device)
        self.num_seen = torch.zeros(num_rows, dtype=torch.int32, device=features.device)
        self.block_rows = features.new_empty(min(block_size, num_rows), num_dims)
        self.center_rows = features.new_empty(_NUM_CENTERS, num_dims)
        self.products = torch.empty(len(self.block_rows) * _NUM_CENTERS, device=features.device)

    def append(self, indices: Tensor, norms: Tensor) -> None:
        """Add centers: indices of rows, and their squared norms less the origin."""
        stop = self.num_centers + len(indices)
        self.picks[self.num_centers : stop] = indices
        self.center_norms[self.num_centers : stop] = norms
        self.num_centers = stop

    def centers(self, start: int, stop: int) -> Tensor:
        """Return centers less the origin; they are read from the features each time, which saves a copy of them all."""
        rows = self.center_rows[: stop - start]
        return torch.index_select(self.features, 0, self.picks[start:stop], out=rows).float().sub_(self.origin)

    def farthest(self, size: int) -> tuple[Tensor, float]:
        """Return the ``size`` rows of the largest bounds, the longest refreshed first, and the next largest bound."""
        values, indices, outside = self.bounds.cpu().numpy(), torch.arange(len(self.bounds)), -1.0
        if size < len(values):
            order = np.argpartition(values, -size - 1)[-size - 1 :]  # three times as fast as torch.topk
            indices, outside = torch.from_numpy(order[1:]), float(values[order[0]])
        indices = indices.to(self.bounds.device)
        return indices[self.num_seen[indices].argsort()], outside


class _Block:
    """Rows with exact squared distances, among which picks are made."""

    def __init__(self, state: _Bounds, indices: Tensor) -> None:
        self.state = state
        self.indices = indices
        self.rows = torch.index_select(state.features, 0, indices, out=state.block_rows).float().sub_(state.origin)
        self.norms = torch.linalg.vector_norm(self.rows, dim=1).square_()  # makes no copy of the rows
        self.squared = state.bounds[indices]  # becomes exact below

    def refresh(self) -> None:
        """Compare rows with the centers they have missed; rows stand in the order of how many they have seen."""
        num_seen = self.state.num_seen[self.indices].tolist()
        for start in range(num_seen[0], self.state.num_centers, _NUM_CENTERS):
            stop = min(start + _NUM_CENTERS, self.state.num_centers)
            self._lower(bisect_left(num_seen, stop), start, stop)

    def _lower(self, num_rows: int, start: int, stop: int) -> None:
        """Lower the distances of the first rows to those of some centers, at most ``_NUM_CENTERS``."""
        products = self.state.products[: num_rows * (stop - start)].view(num_rows, stop - start)
        centers, norms = self.state.centers(start, stop), self.state.center_norms[start:stop]
        torch.addmm(norms, self.rows[:num_rows], centers.T, alpha=-2, out=products)
        nearest = products.amin(1).add_(self.norms[:num_rows]).clamp_(min=0)
        self.squared[:num_rows] = torch.minimum(self.squared[:num_rows], nearest)

    def pick(self, outside: float, most: int) -> list[int]:
        """Pick while the best of the block is at least as far as every row outside can be; return indices."""
        picks: list[int] = []
        while len(picks) < most and float(self.squared.max()) >= max(outside, 0.0):
            chosen = self._pick_from_pool(outside, min(most - len(picks), _NUM_CENTERS))
            first = self.state.num_centers
            self.state.append(self.indices[chosen], self.norms[chosen])
            self._lower(len(self.rows), first, self.state.num_centers)
            self.squared[chosen] = -1.0  # never again
            picks += self.indices[chosen].tolist()
        self.state.bounds[self.indices] = self.squared
        self.state.num_seen[self.indices] = self.state.num_centers
        return picks

    def _pick_from_pool(self, outside: float, most: int) -> Tensor:
        """Pick among the best rows of the block from a table of their distances, at least one."""
        values, pool = torch.topk(self.squared, min(_POOL_SIZE + 1, len(self.squared)))
        limit = outside
        if len(pool) > _POOL_SIZE:
            pool, limit = pool[:-1], max(outside, float(values[-1]))
        rows, norms = self.rows[pool], self.norms[pool]
        table = torch.addmm(norms[:, None] + norms, rows, rows.T, alpha=-2).cpu().numpy()
        squared = values[: len(pool)].cpu().numpy().copy()
        chosen = [0]
        while True:
            np.minimum(squared, table[chosen[-1]], out=squared)
            squared[chosen[-1]] = -1.0
            best = int(squared.argmax())
            if len(chosen) >= most or squared[best] < max(limit, 0.0):
                return pool[chosen]
            chosen.append(best)


def k_center_greedy(
    features: Tensor,
    num_centers: int,
    start: int = 0,
    *,
    block_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Pick rows one after another, each the farthest from all picked before (Euclidean distance).

    Time grows with num_centers times the number of points that stay candidates, at worst with the product of both
    numbers and the dimensions. Memory beside the features: one block of rows, and two numbers
    per row.

    Args:
        features: points, one per row, of any float type; never copied whole.
        num_centers: rows to pick, 1 to N.
        start: index of the first pick.
        block_size: rows brought up to date at once; by default N / 32, at least 256.
        progress: show a bar with the time left, where standard error is a terminal.

    Returns:
        Indices in the order they were picked, all different, int64, on the CPU.

    Shape:
        features (N, C), output (num_centers,).

    Raises:
        ValueError: features not (N, C), num_centers outside 1 to N, start outside 0 to N - 1, or values not finite.

    >>> k_center_greedy(torch.tensor([[0.0], [1.0], [10.0]]), 2).tolist()
    [0, 2]
    """
    if features.ndim != 2:
        msg = f"features must be (N, C), got {tuple(features.shape)}."
        raise ValueError(msg)
    check_range("num_centers", num_centers, 1, len(features))
    check_range("start", start, 0, len(features) - 1)
    block_size = max(256, len(features) // 32) if block_size is None else block_size
    check_range("block_size", block_size, 1)
    state = _Bounds(features, num_centers, block_size)
    if not bool(torch.isfinite(features.sum(1, dtype=torch.float32)).all()):
        msg = "features hold NaN or infinite values; remove the images they come from."
        raise ValueError(msg)
    picks = [start]
    first = features[start : start + 1].float() - state.origin
    state.append(torch.tensor([start], device=features.device), first.square().sum(1))
    state.bounds[start] = -1.0
    with tqdm(total=num_centers, initial=1, desc="coreset", unit="pick", disable=None if progress else True) as bar:
        while len(picks) < num_centers:
            indices, outside = state.farthest(block_size)
            block = _Block(state, indices)
            block.refresh()
            found = block.pick(outside, num_centers - len(picks))
            picks += found
            bar.update(len(found))
    return torch.tensor(picks)
