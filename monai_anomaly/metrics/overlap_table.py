"""Overlap of label images, pooled over all pixels and image by image, at one threshold or many at once.

Yang et al. 2024, section 4.2 and Table 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_anomaly.transforms.class_numbers import IGNORED


def confusion(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many pixels of each true class, by row, are predicted as which, by column, (1, K + 1, K + 1).

    Args:
        predicted: integers from 0 to K.
        true: the same shape; `IGNORED` pixels do not count.
        num_classes: K, without the background.
    """
    counted = true != IGNORED
    pairs = true[counted].astype(np.int64) * (num_classes + 1) + predicted[counted].astype(np.int64)
    return np.bincount(pairs, minlength=(num_classes + 1) ** 2).reshape(1, num_classes + 1, num_classes + 1)


def confusion_by_threshold(maps: np.ndarray, true: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the confusion of pseudo labels at every threshold, (T, K + 1, K + 1), in one pass over the pixels.

    Args:
        maps: (K, ...) in [0, 1], see `pseudo_label`.
        true: (...), integers from 0 to K.
        thresholds: increasing.
    """
    num_classes, num_thresholds = len(maps), len(thresholds)
    counted = true != IGNORED
    winner = maps.argmax(0)[counted] + 1
    passed = np.searchsorted(
        thresholds.astype(maps.dtype), maps.max(0)[counted], side="left"
    )  # thresholds below the value
    shape = (num_classes + 1, num_classes + 1, num_thresholds + 1)
    index = np.ravel_multi_index((true[counted].astype(np.int64), winner, passed), shape)
    counts = np.bincount(index, minlength=int(np.prod(shape))).reshape(shape)
    at_least = counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]  # above threshold t: those that passed more than t
    found = np.moveaxis(at_least, -1, 0).copy()
    found[:, :, 0] = counts.sum((1, 2)) - found.sum(2)
    return found


class OverlapTable:
    """Intersection over union of all pixels (micro), Dice coefficient image by image (macro), and where errors lie.

    Args:
        class_names: of the lesions, classes 1 and on.
        thresholds: at which the confusions are; (0,) for labels.
    """

    def __init__(self, class_names: Sequence[str], thresholds: Sequence[float] | np.ndarray = (0.0,)) -> None:
        self.names = ["background", *class_names]
        self.thresholds = np.asarray(thresholds, dtype=float)
        shape = (len(self.thresholds), len(self.names))
        self.confusion = np.zeros((*shape, len(self.names)), dtype=np.int64)
        self._dice, self._counted = np.zeros(shape), np.zeros(shape, dtype=np.int64)
        self.num_images = 0

    def add(self, confusions: np.ndarray) -> None:
        """Add an image's confusions, (T, K + 1, K + 1)."""
        self.confusion += confusions
        both = np.diagonal(confusions, axis1=1, axis2=2)
        total = confusions.sum(1) + confusions.sum(2)
        self._dice += np.divide(2 * both, total, out=np.zeros(both.shape), where=total > 0)
        self._counted += total > 0
        self.num_images += 1

    def merge(self, other: OverlapTable) -> None:
        """Add the images that another table of the same classes and thresholds has counted."""
        self.confusion += other.confusion
        self._dice += other._dice
        self._counted += other._counted
        self.num_images += other.num_images

    def iou(self) -> np.ndarray:
        """Return TP / (TP + FP + FN) of all pixels, (T, K + 1); NaN for a class nobody has and nobody finds."""
        both, missed, wrong = self._parts()
        total = both + missed + wrong
        return np.divide(both, total, out=np.full(both.shape, np.nan), where=total > 0)

    def dice(self) -> np.ndarray:
        """Return the mean over images of 2 TP / (2 TP + FP + FN), (T, K + 1), images with neither left out."""
        return np.divide(self._dice, self._counted, out=np.full(self._dice.shape, np.nan), where=self._counted > 0)

    def best(self) -> int:
        """Return the index of the threshold with the largest mean intersection over union, the background counted."""
        return int(np.nanargmax(np.nanmean(self.iou(), 1)))

    def rows(self, index: int = 0) -> list[dict[str, Any]]:
        """Return a row per class, one of the lesions' means and one of all means, at a threshold.

        "under" is FN / TP and "over" FP / TP (Table 8), NaN where nothing is found.
        """
        iou, dice = self.iou()[index], self.dice()[index]
        both, missed, wrong = (part[index] for part in self._parts())
        found = np.where(both > 0, both, 1)
        under, over = (np.where(both > 0, part / found, np.nan) for part in (missed, wrong))
        columns = {"iou": iou, "dice": dice, "under": under, "over": over}
        rows = [
            {"class": name, **{key: float(values[number]) for key, values in columns.items()}}
            for number, name in enumerate(self.names)
        ]
        for name, first in (("lesions", 1), ("all", 0)):
            means = {key: _mean(values[first:]) for key, values in columns.items()}
            rows.append({"class": name, **means})
        return rows

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return TP, FN and FP, (T, K + 1) each."""
        both = np.diagonal(self.confusion, axis1=1, axis2=2)
        return both, self.confusion.sum(2) - both, self.confusion.sum(1) - both


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
