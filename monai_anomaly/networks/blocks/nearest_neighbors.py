"""Nearest neighbors by chunked matrix products: a coarse pass finds candidates, float32 ranks them.

The coarse pass may run in float32, in bfloat16 or 8-bit integers, or in the few dimensions in which features of a
network differ. It also says how far every row it left out is at least; where that is not farther than what was found,
the query is done again in float32. The distances themselves always come from the float32 difference of query and row,
so a query that is in the bank is at distance exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_anomaly.checks import check_option, check_range

PRECISIONS = ("auto", "float32", "projected", "bfloat16", "int8")

_QUERY_CHUNK, _BANK_CHUNK = 1024, 4096  # one product's result is 16 MiB
_NUM_GROUPS = 32  # columns compared at once when the best of a product are sought
_NUM_EXTRA = {"float32": 1, "projected": 7, "bfloat16": 3, "int8": 3}  # candidates beyond the neighbors asked for
_PROJECTED_DIMS, _SAMPLE_ROWS = (64, 128, 256), 512
_LITTLE_LOST, _MOST_LOST = 2e-4, 0.01  # of the bank's variance: enough to stop at; too much for "auto"
_NUM_SIGMAS = 5.0  # rounding errors are taken for at most so many standard deviations


def fastest_format(device: torch.device) -> str:
    """Return the number format ``device`` multiplies fastest: bfloat16 or int8 where it has units for them."""
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
    """Bank rows prepared for the coarse pass: less their mean, and in its number format or dimensions.

    Args:
        rows: the bank, (M, C) float32.
        precision: one of `PRECISIONS`. "projected" compares in the 64 to 256 directions of largest variance and by the
            length of the rest, which bounds the distance from below; "auto" takes it where the bank loses at most 1 %
            of its variance by it, else the device's fastest number format.

    Raises:
        ValueError: unknown precision.
    """

    def __init__(self, rows: Tensor, precision: str = "auto") -> None:
        check_option("precision", precision, PRECISIONS)
        self.origin = rows.mean(0)
        self.basis: Tensor | None = None
        if precision in {"auto", "projected"}:
            self.basis, lost = _principal_directions(rows, self.origin)
            if precision == "auto" and (lost > _MOST_LOST or rows.shape[1] <= 2 * _PROJECTED_DIMS[-1]):
                self.basis = None
            precision = "projected" if self.basis is not None else fastest_format(rows.device)
        self.precision = precision
        self._plain: CoarseBank | None = None
        self._source = rows
        most = _QUERY_CHUNK * min(_BANK_CHUNK, len(rows))
        formats = (torch.float32, torch.int32) if precision == "int8" else (torch.float32,)
        self._buffers = [torch.empty(most, dtype=dtype, device=rows.device) for dtype in formats]
        self.half_norms = torch.empty(len(rows), device=rows.device)
        self.scales = torch.ones(len(rows), device=rows.device)
        encoded = []
        for start in range(0, len(rows), _BANK_CHUNK):
            part = slice(start, start + _BANK_CHUNK)
            centered = rows[part] - self.origin
            self.half_norms[part] = centered.square().sum(1) / 2
            if precision != "float32":
                values, self.scales[part] = self._encode(centered)
                encoded.append(values)
        # float32 rows are not copied: (q - o).b differs from (q - o).(b - o) by a number that is the same for all rows
        self.rows = torch.cat(encoded) if encoded else rows

    @property
    def plain(self) -> CoarseBank:
        """The same bank in float32, for the queries the coarse pass was not sure of."""
        if self._plain is None:
            self._plain = self if self.precision == "float32" else CoarseBank(self._source, "float32")
        return self._plain

    def _encode(self, centered: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows as the coarse pass compares them, and the factor each was divided by."""
        ones = torch.ones(len(centered), device=centered.device)
        if self.precision == "projected" and self.basis is not None:
            inside = centered @ self.basis
            rest = (centered.square().sum(1) - inside.square().sum(1)).clamp_(min=0).sqrt_()
            return torch.cat((inside, rest[:, None]), 1), ones
        if self.precision == "bfloat16":
            return centered.bfloat16(), ones
        if self.precision == "int8":
            scales = centered.abs().amax(1).clamp_(min=1e-30) / 127
            return (centered / scales[:, None]).round_().to(torch.int8), scales
        return centered, ones

    def candidates(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return indices (Q, count) of the seemingly nearest, and a squared distance (Q,) the others are beyond."""
        centered = queries - self.origin
        encoded, scales = self._encode(centered)
        values, indices = _top(self._closeness(encoded, scales, slice(0, _BANK_CHUNK)), count + 1)
        for start in range(_BANK_CHUNK, len(self.rows), _BANK_CHUNK):
            more, where = _top(self._closeness(encoded, scales, slice(start, start + _BANK_CHUNK)), count + 1)
            values, indices = torch.cat((values, more), 1), torch.cat((indices, where + start), 1)
            values, order = values.topk(min(count + 1, values.shape[1]), dim=1)
            indices = indices.gather(1, order)
        norms = centered.square().sum(1)
        if values.shape[1] <= count:
            return indices, torch.full_like(norms, float("inf"))
        beyond = norms - 2 * (values[:, -1] * scales + _NUM_SIGMAS * self._sigma(norms, scales))
        return indices[:, :count], beyond

    def _closeness(self, encoded: Tensor, scales: Tensor, part: slice) -> Tensor:
        """Return q.b - |b|^2 / 2 over the query's scale: largest where the distance is smallest."""
        rows, half_norms = self.rows[part], self.half_norms[part]
        size = (len(encoded), len(rows))
        result = self._buffers[0][: size[0] * size[1]].view(size)
        if self.precision == "int8":
            products = torch._int_mm(encoded, rows.T, out=self._buffers[1][: size[0] * size[1]].view(size))
            return torch.mul(products, self.scales[part], out=result).addr_(scales.reciprocal(), half_norms, alpha=-1)
        if self.precision == "bfloat16":
            return torch.sub((encoded @ rows.T).float(), half_norms, out=result)
        return torch.addmm(half_norms, encoded, rows.T, beta=-1, out=result)

    def _sigma(self, norms: Tensor, scales: Tensor) -> Tensor:
        """Return the standard deviation of a product's rounding error for each query."""
        largest = 2 * self.half_norms.max()
        if self.precision == "int8":  # each factor is off by a uniform error of its scale
            return ((largest * scales.square() + norms * self.scales.square().max()) / 12).sqrt_()
        if self.precision == "bfloat16":  # eight bits of each factor, and of the sum
            return (norms * largest).sqrt_() * 2.0**-9
        return torch.zeros_like(norms)


def _principal_directions(rows: Tensor, origin: Tensor) -> tuple[Tensor, float]:
    """Return orthonormal directions (C, K) of largest variance in a sample, and the share of it outside them."""
    sample = rows[:: max(1, len(rows) // _SAMPLE_ROWS)][:_SAMPLE_ROWS] - origin
    values, vectors = torch.linalg.eigh((sample @ sample.T).double())
    kept, lost = 0, 1.0
    for num_dims in _PROJECTED_DIMS:
        if lost > _LITTLE_LOST:
            kept = min(num_dims, len(sample), rows.shape[1])
            lost = 1 - float(values[-kept:].sum() / values.sum().clamp(min=1e-30))
    return torch.linalg.qr(sample.T @ vectors[:, -kept:].float()).Q, lost


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
    queries: Tensor, bank: Tensor, num_neighbors: int = 1, *, precision: str = "auto", coarse: CoarseBank | None = None
) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distances to the nearest bank rows, and which rows they are.

    Time grows with Q x M x C, with "projected" with Q x M x 257. Memory beside the result stays under 100 MB, and the
    coarse pass's copy of the bank: none with float32, 1,028 bytes a row with "projected", 1 or 2 a value else.

    Args:
        queries: (Q, C) float.
        bank: (M, C) float, M >= num_neighbors.
        num_neighbors: how many, in order of distance (PatchCore and ReSAD: 1).
        precision: of the coarse pass, see `CoarseBank`. With "float32" and "projected" the neighbors are those of a
            float32 search; with "bfloat16" and "int8" unless rounding errors exceed five standard deviations.
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
    distances = torch.empty(len(queries), num_neighbors, device=queries.device)
    indices = torch.empty(len(queries), num_neighbors, dtype=torch.int64, device=queries.device)
    for start in range(0, len(queries), _QUERY_CHUNK):
        part = slice(start, start + _QUERY_CHUNK)
        chunk = queries[part].float()
        near, where, beyond = _search(chunk, bank, num_neighbors, coarse)
        unsure = (near[:, -1].square() > beyond) if coarse.precision != "float32" else near.new_zeros(len(near)).bool()
        if bool(unsure.any()):
            near[unsure], where[unsure], _ = _search(chunk[unsure], bank, num_neighbors, coarse.plain)
        distances[part], indices[part] = near, where
    return distances, indices


def _search(queries: Tensor, bank: Tensor, num_neighbors: int, coarse: CoarseBank) -> tuple[Tensor, Tensor, Tensor]:
    """Return distances and indices (Q, num_neighbors) of the best candidates, and what the others are beyond."""
    num_candidates = min(num_neighbors + _NUM_EXTRA[coarse.precision], len(bank))
    found, beyond = coarse.candidates(queries, num_candidates)
    distances = torch.empty(len(queries), num_neighbors, device=queries.device)
    indices = torch.empty(len(queries), num_neighbors, dtype=torch.int64, device=queries.device)
    step = max(1, (1 << 19) // (num_candidates * max(1, bank.shape[1])))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        exact = torch.linalg.vector_norm(bank[found[part]].float() - queries[part, None], dim=2)
        distances[part], order = exact.topk(num_neighbors, dim=1, largest=False)
        indices[part] = found[part].gather(1, order)
    return distances, indices, beyond
