"""Feature vectors of healthy images within a bound of memory: merge and reduce."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from monai_anomaly.networks.blocks.k_center_greedy import k_center_greedy
from monai_anomaly.networks.blocks.memory_bank import project
from monai_anomaly.networks.blocks.random_projection import johnson_lindenstrauss_dim

logger = logging.getLogger(__name__)


class FeatureStore:
    """Collect vectors batch by batch; where memory does not hold them all, each block of batches leaves its coreset.

    A block keeps the share of its vectors that the memory allows, picked by `k_center_greedy` as the bank is picked in
    the end; every vector let go is within the block's covering radius of one that stays. By the triangle inequality the
    bank covers all vectors within the sum of that radius and the one with which it covers those that stayed.

    Time for a block grows with its vectors times those that stay; for all blocks with their number.

    Args:
        num_batches: that will come.
        bank_fraction: of all vectors that the bank will have, in (0, 1].
        memory_gb: for vectors, projections and the bank, in 10^9 bytes; None for no bound.
        eps: of the random projection, see `MemoryBank.fit`.
        seed: of the projection and of each block's first pick.
        block_rows: vectors of a block, about.
        of_batches: of all processes that share the fit, where there are others; memory, bank and projection are those
            of one process that has them all, in which they come together in the end.
    """

    def __init__(
        self,
        num_batches: int,
        bank_fraction: float,
        memory_gb: float | None = None,
        eps: float | None = 0.9,
        seed: int = 0,
        block_rows: int = 32_768,
        of_batches: int | None = None,
    ) -> None:
        self.of_batches = num_batches if of_batches is None else of_batches
        self.num_batches, self.bank_fraction, self.memory_gb = num_batches, bank_fraction, memory_gb
        self.eps, self.seed, self.block_rows = eps, seed, block_rows
        self.num_done = 0
        """Batches that came."""
        self.num_seen = 0
        """Vectors that came."""
        self._rows: Tensor | None = None
        self._num_rows = 0
        self._total = 0  # vectors expected
        self._share = 1.0
        self._block_batches = 1
        self._block: list[Tensor] = []

    @property
    def rows(self) -> Tensor:
        """The vectors that stayed, (N, C)."""
        return torch.empty(0, 0) if self._rows is None else self._rows[: self._num_rows]

    @property
    def at_block_end(self) -> bool:
        """Whether nothing waits for its block to be full."""
        return not self._block and self.num_done % self._block_batches == 0

    @property
    def bank_rows(self) -> int:
        """Vectors the bank will have of those seen so far."""
        return self.bank_rows_of(self.num_seen)

    def bank_rows_of(self, num_vectors: int) -> int:
        """Return how many vectors a bank of so many will have."""
        return max(1, int(num_vectors * self.bank_fraction))

    def add(self, vectors: Tensor | None) -> None:
        """Take a batch's vectors, (N, C), or None for a batch that failed.

        Raises:
            RuntimeError: the memory allowed does not hold the bank.
        """
        self.num_done += 1
        if vectors is not None:
            if self._rows is None:
                self._plan(len(vectors), vectors)
            self.num_seen += len(vectors)
            if self._share == 1:
                self._append(vectors)
            else:
                self._block.append(vectors.clone())
        full = self.num_done % self._block_batches == 0 or self.num_done == self.num_batches
        if full and self._block:
            block = torch.cat(self._block)
            self._block = []
            count = max(1, int(len(block) * self._share))
            self._append(block[self._picks(block, count)])

    def forget(self) -> None:
        """Free the vectors."""
        self._rows, self._num_rows, self._block = None, 0, []

    def state_dict(self) -> dict[str, Any]:
        """Return what is known beside the vectors; at a block's end only."""
        return {
            "num_done": self.num_done,
            "num_seen": self.num_seen,
            "num_rows": self._num_rows,
            "capacity": 0 if self._rows is None else len(self._rows),
            "total": self._total,
            "share": self._share,
            "block_batches": self._block_batches,
        }

    def load_state_dict(
        self, state: dict[str, Any], parts: Iterable[Tensor], device: torch.device | str = "cpu"
    ) -> None:
        """Go on from a state and the vectors that had stayed, in their order."""
        self.num_done, self.num_seen = state["num_done"], state["num_seen"]
        self._total, self._share, self._block_batches = state["total"], state["share"], state["block_batches"]
        for part in parts:
            if self._rows is None:
                self._rows = torch.empty(state["capacity"], part.shape[1], device=device)
            self._append(part)

    def _append(self, vectors: Tensor) -> None:
        if self._rows is None:
            raise AttributeError
        stop = self._num_rows + len(vectors)
        if stop > len(self._rows):
            msg = f"A batch gives more vectors than the first one did, and {len(self._rows)} have room: resize images."
            raise RuntimeError(msg)
        self._rows[self._num_rows : stop] = vectors
        self._num_rows = stop

    def _plan(self, batch_rows: int, vectors: Tensor) -> None:
        """Share the memory out, knowing the first batch."""
        self._total = total = batch_rows * self.of_batches
        width = vectors.shape[1]
        self._block_batches = max(1, min(self.block_rows // batch_rows, self.num_batches))
        capacity = total
        if self.memory_gb is not None:
            capacity = min(total, self._capacity(total, batch_rows, width))
        self._share = min(1.0, capacity / total)
        room = min(capacity, -(-capacity * self.num_batches // self.of_batches))
        self._rows = torch.empty(room, width, device=vectors.device)
        kept = "" if self._share == 1 else f" of {total}, blocks of {self._block_batches} batches reduced"
        logger.info("features: %d vectors of %d, %.2f GB%s", capacity, width, capacity * width * 4e-9, kept)

    def _capacity(self, total: int, batch_rows: int, width: int) -> int:
        """Return how many vectors may stay.

        While the bank is picked they lie beside their projections and a quarter more for the bounds; afterwards beside
        the bank; until then beside a block with its projections.
        """
        dims = width if self.eps is None or total < 2 else min(width, johnson_lindenstrauss_dim(total, self.eps))
        picking = 5 * dims if dims < width else dims
        bank = max(1, int(total * self.bank_fraction))
        block = self._block_batches * batch_rows * (8 * width + picking)
        available = (self.memory_gb or 0) * 1e9
        row = 4 * width
        capacity = int(min(available / (row + picking), (available - block) / row, available / row - bank))
        if capacity >= bank:
            return capacity
        needed = max(bank * (row + picking), bank * 2 * row, bank * row + block) * 1e-9
        msg = (
            f"memory_gb {self.memory_gb:g} does not hold the bank of {bank} vectors of {width}; allow at least "
            f"{needed:.3g} GB, or lower bank_fraction."
        )
        raise RuntimeError(msg)

    def _picks(self, block: Tensor, count: int) -> Tensor:
        space = block if self.eps is None else project(block, self.eps, self.seed, self._total)
        generator = torch.Generator().manual_seed(self.seed + self.num_done)
        start = int(torch.randint(len(block), (), generator=generator))
        return k_center_greedy(space, count, start).sort().values.to(block.device)
