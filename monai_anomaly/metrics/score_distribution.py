"""The distribution of any number of scores in constant memory, finest where it matters: among the highest.

Scores are sorted and counted in bins whose width in ranks grows with the rank from the top, so that "how many scores
are at least t" is known to about one part in ``resolution`` for every t, also for the few highest of a billion. Bins
are made of ranks, not of values: the range and the shape of the scores do not matter, and tied scores stay tied.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_range

_CHUNK = 1 << 21  # scores sorted at once
_MOST_ENTRIES = 1 << 19  # entries kept before they are merged: 8 MiB


class ScoreDistribution:
    """Weighted counts of scores.

    Args:
        resolution: bins per factor e of the rank, at least 16; counts are off by one part in this at most per merge.

    Raises:
        ValueError: resolution < 16.
    """

    def __init__(self, resolution: int = 20_000) -> None:
        check_range("resolution", resolution, 16)
        self.resolution = resolution
        self.total = 0.0
        self._values: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []

    def add(self, scores: np.ndarray, weight: float = 1.0) -> None:
        """Add scores, (N,) float, each counted ``weight`` times.

        Raises:
            ValueError: a score is NaN.
        """
        for start in range(0, len(scores), _CHUNK):
            descending = np.sort(scores[start : start + _CHUNK])[::-1]
            if np.isnan(descending[:1]).any():  # NaN sorts last, so it is first here
                msg = "Scores hold NaN: find the case it comes from; a metric of it would mean nothing."
                raise ValueError(msg)
            edges = self._edges(len(descending))
            self._values.append(descending[(edges[:-1] + edges[1:] - 1) // 2].astype(np.float64))
            self._weights.append(np.diff(edges) * weight)
            self.total += len(descending) * weight
            if sum(map(len, self._values)) > _MOST_ENTRIES:
                self._merge()

    def merge(self, other: ScoreDistribution) -> None:
        """Add the scores that another one of the same resolution has counted."""
        self._values += other._values
        self._weights += other._weights
        self.total += other.total
        if sum(map(len, self._values)) > _MOST_ENTRIES:
            self._merge()

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scores in descending order, and their weights."""
        values = np.concatenate([np.empty(0), *self._values])
        weights = np.concatenate([np.empty(0), *self._weights])
        if len(self._values) > 1:
            order = np.argsort(-values, kind="stable")
            values, weights = values[order], weights[order]
        return values, weights

    def _edges(self, count: int) -> np.ndarray:
        """Return the ranks bins begin at, 0 to ``count``: steps of 1 + rank / resolution."""
        num_bins = int(np.ceil(self.resolution * np.log1p(count / self.resolution)))
        edges = np.floor(self.resolution * np.expm1(np.arange(num_bins + 1) / self.resolution)).astype(np.int64)
        edges[-1] = count
        return edges[np.diff(edges, prepend=-1) > 0]

    def _merge(self) -> None:
        """Put all entries into one set of bins, half as wide as those they came from."""
        values, weights = self.entries()
        ranks = (np.cumsum(weights) - weights) / weights.min()
        bins = np.floor(2 * self.resolution * np.log1p(ranks / self.resolution))
        first = np.flatnonzero(np.diff(bins, prepend=-1.0))
        merged = np.add.reduceat(weights, first)
        middle = np.searchsorted(np.cumsum(weights), np.cumsum(merged) - merged / 2)
        self._values, self._weights = [values[np.minimum(middle, len(values) - 1)]], [merged]


class LabeledScores:
    """The score distributions of positives and negatives, from maps and masks.

    Args:
        resolution: of `ScoreDistribution`.
    """

    def __init__(self, resolution: int = 20_000) -> None:
        self.positives = ScoreDistribution(resolution)
        self.negatives = ScoreDistribution(resolution)

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> None:
        """Add scores with their labels.

        Args:
            scores: float of any range and shape; higher = more anomalous. They are never transformed.
            labels: the same shape, in {0, 1}.
            mask: the same shape; where it is 0 nothing counts.

        Raises:
            ValueError: shapes differ, labels are not 0 or 1, or a score is NaN.
        """
        flat, positive = flatten_pair(scores, labels)
        if mask is not None:
            kept = convert_to_tensor(mask).reshape(-1).bool().cpu().numpy()
            flat, positive = flat[kept], positive[kept]
        self.positives.add(flat[positive])
        self.negatives.add(flat[~positive])

    def merge(self, other: LabeledScores) -> None:
        """Add the scores that another one has counted."""
        self.positives.merge(other.positives)
        self.negatives.merge(other.negatives)


def flatten_pair(scores: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return scores as flat float32 or float64 and labels as flat bool arrays.

    Raises:
        ValueError: shapes differ, or labels are not 0 or 1.
    """
    if tuple(scores.shape) != tuple(labels.shape):
        msg = f"Scores and labels must have one shape, got {tuple(scores.shape)} and {tuple(labels.shape)}."
        raise ValueError(msg)
    label = convert_to_tensor(labels).reshape(-1)
    if label.dtype != torch.bool:
        positive = label == 1
        if not bool((positive | (label == 0)).all()):
            msg = "Labels must be 0 or 1; binarize them first (label > 0)."
            raise ValueError(msg)
        label = positive
    flat = convert_to_tensor(scores).reshape(-1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    return flat.detach().cpu().numpy(), label.cpu().numpy()
