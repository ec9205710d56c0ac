"""Each position of a feature map attends to the window around it, with learned relative positions.

Ramachandran et al. 2019, "Stand-alone self-attention in vision models"; Yang et al. 2024, Eq. 3 and 4.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_option, check_range

_READINGS = ("paper", "published_code")
_TILE = 8


def _slide(scores: Tensor) -> Tensor:
    """Return scores of offsets, (..., n, k), as scores of positions, (..., n, n + k - 1), -inf beyond the window.

    Row i of the result holds row i of the input from column i on: each query's window starts where the query stands.
    """
    *lead, n, k = scores.shape
    padded = F.pad(scores, (0, n), value=float("-inf")).flatten(-2)
    return padded[..., : n * (n + k - 1)].reshape(*lead, n, n + k - 1)


class LocalSelfAttention(nn.Module):
    """y_ij = sum over the window of softmax(q_ij . k_ab + q_ij . r_(a-i, b-j)) v_ab (Eq. 4).

    Half of a head's channels meet the embedding of the row offset, the other half that of the column offset. Beyond
    the border features are 0, so that their keys and values are the projections' biases, and take part.

    The plain form copies the window of every position: k^2 times the feature map, twice. Here tiles of 8 x 8 queries
    meet the keys of the tile and its margin in one matrix product, and what lies outside a query's window weighs
    nothing. More products, on matrices, and (8 + k - 1)^2 weights per position and head are all that grows with k.

    Args:
        channels: C.
        kernel_size: k, side of the window, odd (paper: 7).
        num_heads: (paper: 4); twice this number divides C.
        reading: "paper", or "published_code": the sum of q times the sum of r in place of their product, and windows
            whose axes are mixed up among heads and channels.

    Shape:
        input (B, C, H, W), output the same.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(self, channels: int, kernel_size: int = 7, num_heads: int = 4, reading: str = "paper") -> None:
        super().__init__()
        check_range("kernel_size", kernel_size, 1)
        check_range("num_heads", num_heads, 1)
        if kernel_size % 2 == 0 or channels % (2 * num_heads):
            msg = (
                f"LocalSelfAttention expects an odd kernel_size and channels divisible by {2 * num_heads} "
                f"(twice num_heads), got kernel_size {kernel_size} and {channels} channels."
            )
            raise ValueError(msg)
        self.kernel_size, self.num_heads = kernel_size, num_heads
        self.reading = check_option("reading", reading, _READINGS)
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        shape = (num_heads, channels // num_heads // 2, kernel_size)
        self.row_embedding, self.column_embedding = (nn.Parameter(torch.randn(shape)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return y."""
        height, width = x.shape[2:]
        around = self.kernel_size // 2
        bottom, right = -height % _TILE, -width % _TILE
        margins = (around, right + around, around, bottom + around)
        keys, values = (  # beyond the border the features are 0, not the projections
            F.pad(F.conv2d(x, layer.weight), margins) + cast("Tensor", layer.bias)[:, None, None]
            for layer in (self.key, self.value)
        )
        queries = self.query(x)
        if self.reading == "published_code":
            whole = (..., slice(height + 2 * around), slice(width + 2 * around))
            return self._as_published(queries, keys[whole], values[whole])
        found = self._attend(F.pad(queries, (0, right, 0, bottom)), keys, values)
        return found[..., :height, :width]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        side = _TILE + self.kernel_size - 1
        q, k, v = self._tiles(queries, _TILE), self._tiles(keys, side), self._tiles(values, side)
        scores = q.transpose(-1, -2) @ k  # (B, tiles, heads, T^2, side^2)
        scores = scores.reshape(*scores.shape[:3], _TILE, _TILE, side, side)
        by_row, by_column = q.reshape(*q.shape[:4], _TILE, _TILE).chunk(2, dim=-3)
        rows = torch.einsum("bthdij,hdk->bthjik", by_row, self.row_embedding)
        columns = torch.einsum("bthdij,hdk->bthijk", by_column, self.column_embedding)
        scores += _slide(rows).transpose(-2, -3)[..., None]  # (..., i, j, a, 1)
        scores += _slide(columns)[..., None, :]  # (..., i, j, 1, b)
        weights = scores.flatten(-2).flatten(-3, -2).softmax(-1)
        found = v @ weights.transpose(-1, -2)  # (B, tiles, heads, d, T^2)
        across = queries.shape[3] // _TILE
        batch, tiles, heads, depth = found.shape[:4]
        found = found.reshape(batch, tiles // across, across, heads * depth, _TILE, _TILE)
        return found.permute(0, 3, 1, 4, 2, 5).reshape(batch, heads * depth, *queries.shape[2:])

    def _tiles(self, x: Tensor, side: int) -> Tensor:
        """Return (B, tiles, heads, d, side^2) of tiles that lie _TILE apart."""
        windows = x.unfold(2, side, _TILE).unfold(3, side, _TILE)  # (B, C, rows, columns, side, side)
        ordered = windows.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(-2)
        return ordered.reshape(*ordered.shape[:2], self.num_heads, -1, side * side)

    def _as_published(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what the authors' code computes, windows being reshaped without moving their axes."""
        batch, channels, height, width = queries.shape
        size, heads = self.kernel_size, self.num_heads
        k, v = (
            t.unfold(2, size, 1).unfold(3, size, 1).reshape(batch, heads, height, width, channels // heads, size**2)
            for t in (keys, values)
        )
        q = queries.reshape(batch, heads, height, width, channels // heads, 1)
        offsets = self.row_embedding.sum(1)[:, :, None] + self.column_embedding.sum(1)[:, None]
        scores = (q * k).sum(4) + q.sum(4) * offsets.reshape(heads, 1, 1, -1)
        found = torch.einsum("bhxyk,bhxydk->bhxyd", scores.softmax(-1), v)
        return found.reshape(batch, channels, height, width)
