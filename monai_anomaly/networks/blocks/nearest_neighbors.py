"""Exact-enough nearest neighbors by chunked matrix products: a coarse pass finds candidates, float32 ranks them.

The coarse pass may run in float32, bfloat16 or 8-bit integers; what it returns is only which rows to look at. The
distances themselves always come from the float32 difference of query and row, so a query that is in the bank is at
distance exactly 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_anomaly.checks import check_option, check_range

PRECISIONS = ("auto", "float32", "bfloat16", "int8")

_QUERY_CHUNK, _BANK_CHUNK = 1024, 4096  # one product's result is 16 MiB
_NUM_GROUPS = 32  # columns compared at once when the best of a product are sought
_NUM_EXTRA = {"float32": 1, "bfloat16": 7, "int8": 7}  # candidates beyond the neighbors asked for


def fastest_precision(device: torch.device) -> str:
    """Return the coarse pass that ``device`` does fastest: bfloat16 or int8 where its processor has units for them."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float32"
    for precision, probe in (
        ("bfloat16", "_is_amx_tile_supported"),
        ("bfloat16", "_is_avx512_bf16_supported"),
        ("int8", "_is_vnni_supported"),
    ):
        if device.type == "cpu" and getattr(torch.cpu, probe, bool)():
            return precision
    return "float32"


class CoarseBank:
    """Bank rows prepared for the coarse pass: less their mean, and in its number format.

    Args:
        rows: the bank, (M, C) float32.
        precision: one of `PRECISIONS`.

    Raises:
        ValueError: unknown precision.
    """

    def __init__(self, rows: Tensor, precision: str = "auto") -> None:
        check_option("precision", precision, PRECISIONS)
        self.precision = fastest_precision(rows.device) if precision == "auto" else precision
        self.origin = rows.mean(0)
        self.half_norms = torch.empty(len(rows), device=rows.device)
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}[self.precision]
        plain = self.precision == "float32"
        self.rows = rows if plain else torch.empty(rows.shape, dtype=dtype, device=rows.device)
        self.scales = torch.ones(len(rows), device=rows.device)
        for start in range(0, len(rows), _BANK_CHUNK):
            part = slice(start, start + _BANK_CHUNK)
            centered = rows[part] - self.origin
            self.half_norms[part] = centered.square().sum(1) / 2
            if not plain:
                self.rows[part], self.scales[part] = self._encode(centered)
        # float32 rows are not copied: (q - o).b differs from (q - o).(b - o) by a number that is the same for all rows

    def _encode(self, centered: Tensor) -> tuple[Tensor, Tensor]:
        if self.precision == "bfloat16":
            return centered.bfloat16(), torch.ones(len(centered), device=centered.device)
        scales = centered.abs().amax(1).clamp_(min=1e-30) / 127
        return (centered / scales[:, None]).round_().to(torch.int8), scales

    def candidates(self, queries: Tensor, num_candidates: int) -> Tensor:
        """Return indices (Q, num_candidates) of the rows that seem nearest."""
        centered = queries - self.origin
        encoded, scales = (centered, None) if self.precision == "float32" else self._encode(centered)
        best_values: Tensor | None = None
        best_indices = torch.empty(0)
        for start in range(0, len(self.rows), _BANK_CHUNK):
            closeness = self._closeness(encoded, scales, slice(start, start + _BANK_CHUNK))
            values, indices = _top(closeness, num_candidates)
            indices += start
            if best_values is not None:
                values = torch.cat((best_values, values), 1)
                indices = torch.cat((best_indices, indices), 1)
                values, order = values.topk(min(num_candidates, values.shape[1]), dim=1)
                indices = indices.gather(1, order)
            best_values, best_indices = values, indices
        return best_indices

    def _closeness(self, encoded: Tensor, scales: Tensor | None, part: slice) -> Tensor:
        """Return q.b - |b|^2 / 2 up to a positive factor per query: largest where the distance is smallest."""
        rows, half_norms = self.rows[part], self.half_norms[part]
        if self.precision == "float32":
            return torch.addmm(half_norms, encoded, rows.T, beta=-1)
        if self.precision == "bfloat16" or scales is None:
            return (encoded @ rows.T).float().sub_(half_norms)
        products = torch._int_mm(encoded, rows.T)
        return torch.mul(products, self.scales[part]).addr_(scales.reciprocal(), half_norms, alpha=-1)


def _top(closeness: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest of each row, (Q, count) values and indices, by groups of columns where that pays."""
    num_queries, num_columns = closeness.shape
    width = num_columns // _NUM_GROUPS
    if width < 2 * count:
        values, indices = closeness.topk(min(count, num_columns), dim=1)
        return values, indices
    grouped = closeness[:, : width * _NUM_GROUPS].view(num_queries, _NUM_GROUPS, width)
    groups = grouped.amax(1).topk(count, dim=1).indices  # the best columns lie in the groups of the best maxima
    inside = grouped.gather(2, groups[:, None].expand(-1, _NUM_GROUPS, -1)).flatten(1)
    columns = (torch.arange(_NUM_GROUPS, device=groups.device)[:, None] * width + groups[:, None]).flatten(1)
    tail = torch.arange(width * _NUM_GROUPS, num_columns, device=groups.device).expand(num_queries, -1)
    values, positions = torch.cat((inside, closeness[:, width * _NUM_GROUPS :]), 1).topk(count, dim=1)
    return values, torch.cat((columns, tail), 1).gather(1, positions)


def nearest_neighbors(
    queries: Tensor,
    bank: Tensor,
    num_neighbors: int = 1,
    *,
    precision: str = "auto",
    coarse: CoarseBank | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distances to the nearest bank rows, and which rows they are.

    Time grows with Q x M x C; memory beside the result stays under 100 MB with float32, one byte per bank value more
    with int8 and two with bfloat16.

    Args:
        queries: (Q, C) float.
        bank: (M, C) float, M >= num_neighbors.
        num_neighbors: how many, in order of distance (PatchCore and ReSAD: 1).
        precision: of the coarse pass: "float32", "bfloat16", "int8", or "auto" for the fastest on the device.
        coarse: the bank prepared by an earlier call's `CoarseBank`, which saves preparing it again.

    Shape:
        two outputs (Q, num_neighbors): float32 distances, int64 indices.

    Raises:
        ValueError: shapes that do not fit, too few rows, or an unknown precision.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        msg = f"queries (Q, C) and bank (M, C) must share C, got {tuple(queries.shape)} and {tuple(bank.shape)}."
        raise ValueError(msg)
    check_range("num_neighbors", num_neighbors, 1, len(bank))
    coarse = CoarseBank(bank, precision) if coarse is None else coarse
    num_candidates = min(num_neighbors + _NUM_EXTRA[coarse.precision], len(bank))
    distances = torch.empty(len(queries), num_neighbors, device=queries.device)
    indices = torch.empty(len(queries), num_neighbors, dtype=torch.int64, device=queries.device)
    rank_chunk = max(1, (1 << 22) // (num_candidates * max(1, bank.shape[1])))
    num_chunks = max(1, math.ceil(len(queries) / _QUERY_CHUNK))
    for chunk in torch.arange(len(queries)).chunk(num_chunks):
        if not len(chunk):
            break
        part = slice(int(chunk[0]), int(chunk[-1]) + 1)
        found = coarse.candidates(queries[part].float(), num_candidates)
        for start in range(0, len(found), rank_chunk):
            near = found[start : start + rank_chunk]
            rows = slice(part.start + start, part.start + start + len(near))
            exact = torch.linalg.vector_norm(bank[near].float() - queries[rows, None].float(), dim=2)
            distances[rows], order = exact.topk(num_neighbors, dim=1, largest=False)
            indices[rows] = near.gather(1, order)
    return distances, indices
