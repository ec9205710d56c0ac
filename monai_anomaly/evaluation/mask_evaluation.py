"""Dice of masks, by subject or by slice, beside the trivial mask that is hard to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_anomaly.checks import check_option, check_same_grid
from monai_anomaly.evaluation.baselines import equalize
from monai_anomaly.evaluation.summary import summarize

TRIVIAL = "equalized intensity at its best threshold"
_NUM_BINS = 256
_CHUNK = 1 << 22  # pixels at a time


class MaskEvaluation:
    """Dice of each mask with the label, one value per subject or per slice.

    Beside them stands the intensity after histogram equalization, thresholded at the one value that gives the largest
    mean Dice on these very labels: on lesions of multiple sclerosis it beats most networks (Meissen et al. 2021).
    Without a lesion in a subject or slice its Dice is undefined and left out, counted in the summary.

    Args:
        by: "subject" or "slice".
        dark_lesions: the trivial row marks dark pixels instead of bright ones.

    Raises:
        ValueError: an unknown ``by``.
    """

    def __init__(self, by: str = "subject", dark_lesions: bool = False) -> None:
        self.by = check_option("dice_by", by, ("subject", "slice"))
        self.dark_lesions = dark_lesions
        self.rows: list[dict[str, Any]] = []
        self._counts: list[np.ndarray] = []  # of the trivial row, (units, 2, bins): pixels at or above each level

    def add(self, name: str, image: Tensor, label: Tensor, masks: Mapping[str, Tensor], slice_axis: int = 2) -> None:
        """Count a case.

        Args:
            name: of the case.
            image: (1, I, J, K) or (1, H, W), 0 outside the organ.
            label: on its grid, above 0 for lesions.
            masks: by their names in the table, on its grid, above 0 for lesions.
            slice_axis: of volumes.

        Raises:
            ValueError: not one grid.
        """
        units = {key: self._units(mask, slice_axis) > 0 for key, mask in masks.items()}
        for mask in masks.values():
            check_same_grid("The mask", label, mask, expected="the label")
        truth = self._units(label, slice_axis) > 0
        self._counts.append(self._levels(image, truth, slice_axis))
        dice = {key: _dice((unit & truth).sum(1), unit.sum(1), truth.sum(1)) for key, unit in units.items()}
        for index in range(len(truth)):
            place = {"case": name} if self.by == "subject" else {"case": name, "slice": index}
            self.rows.append({**place, **{key: float(values[index]) for key, values in dice.items()}})

    def merge(self, other: MaskEvaluation) -> None:
        """Add the cases that another one has counted."""
        self.rows += other.rows
        self._counts += other._counts

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of all subjects or slices, the trivial row's Dice among them."""
        marked, inside = (np.concatenate([counts[:, i] for counts in self._counts]) for i in (0, 1))
        dice = _dice(inside, marked, inside[:, :1])
        known = ~np.isnan(dice[:, 0])
        best = int(dice[known].mean(0).argmax()) if known.any() else 0
        return [{**row, TRIVIAL: float(value)} for row, value in zip(self.rows, dice[:, best], strict=True)]

    def summary(self, seed: int = 0) -> list[dict[str, Any]]:
        """Return mean, sd, counts and interval of each mask's Dice."""
        table = self.table()
        names = [key for key in table[0] if key not in {"case", "slice"}]
        return summarize(table, names, seed)

    def _units(self, array: Tensor, slice_axis: int) -> Tensor:
        """Return one row of pixels per subject or slice."""
        if self.by == "subject" or array.ndim == 3:
            return array.flatten()[None]
        return array[0].movedim(slice_axis, 0).flatten(1)

    def _levels(self, image: Tensor, truth: Tensor, slice_axis: int) -> np.ndarray:
        """Return how many pixels are at or above each level of the equalized image, all and within the truth."""
        ranks = equalize(image)
        if self.dark_lesions:
            ranks = torch.where(image > 0, 1 - ranks, torch.zeros_like(ranks))
        counts = np.zeros((len(truth), 2, _NUM_BINS))
        for unit, (values, marked) in enumerate(zip(self._units(ranks, slice_axis), truth, strict=True)):
            for some, true in zip(values.split(_CHUNK), marked.split(_CHUNK), strict=True):
                bins = (some * (_NUM_BINS - 1)).round().long()
                counts[unit, 0] += torch.bincount(bins[(some > 0) | true], minlength=_NUM_BINS).numpy()
                counts[unit, 1] += torch.bincount(bins[true], minlength=_NUM_BINS).numpy()
        return np.asarray(counts[..., ::-1].cumsum(-1)[..., ::-1])


def _dice(shared: Any, marked: Any, true: Any) -> np.ndarray:
    """Return 2 |A and B| / (|A| + |B|), NaN where B is empty."""
    shared, marked, true = (np.asarray(value, dtype=float) for value in (shared, marked, true))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(true > 0, 2 * shared / (marked + true), np.nan)
