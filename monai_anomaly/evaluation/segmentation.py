"""Segmentations against labels, B-scan by B-scan and class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_anomaly.evaluation.bootstrap import bootstrap_interval
from monai_anomaly.metrics.lesion_detection import compare_masks

Row = dict[str, Any]


class SegmentationEvaluation:
    """Dice coefficient, detection rate and false positives of each class (Kahrs et al. 2025, section III).

    The Dice coefficient is of each B-scan that has the class, the detection rate of all lesions of all B-scans, false
    positives are lesions that touch no true one of the class, over all B-scans. Intervals are of the mean over
    B-scans, drawn by case.

    Args:
        classes: labels by name; those that are not lesions have no detection rate, see ``lesions``.
        lesions: names among them; None for all.
    """

    def __init__(self, classes: Mapping[str, int], lesions: Sequence[str] | None = None) -> None:
        self.classes = dict(classes)
        self.lesions = tuple(classes if lesions is None else lesions)
        self.slices: list[Row] = []
        self.volumes: list[Row] = []
        self.num_slices = 0

    def add(
        self, case: str, predicted: np.ndarray, true: np.ndarray, slice_axis: int = 2, voxel_volume_mm3: float = 1.0
    ) -> None:
        """Compare the labels of a volume.

        Args:
            case: its name.
            predicted: (I, J, K), integers.
            true: the same shape.
            slice_axis: that B-scans follow one another along.
            voxel_volume_mm3: of the volume.

        Raises:
            ValueError: labels of different shapes.
        """
        if predicted.shape != true.shape:
            msg = f"{case}: the segmentation is {predicted.shape}, the labels {true.shape}; expected one grid."
            raise ValueError(msg)
        pairs = [(np.moveaxis(predicted, slice_axis, 0), np.moveaxis(true, slice_axis, 0))]
        self.num_slices += len(pairs[0][0])
        for index, (ours, theirs) in enumerate(zip(*pairs[0], strict=True)):
            there = set(np.unique(theirs)) | set(np.unique(ours))
            for name, value in self.classes.items():
                if value in there:
                    found = compare_masks(ours == value, theirs == value)
                    self.slices.append({"case": case, "slice": index, "class": name, **found})
        for name, value in self.classes.items():
            a, b = predicted == value, true == value
            total = int(a.sum()) + int(b.sum())
            dice = 2 * int((a & b).sum()) / total if b.any() else float("nan")
            volumes = {"true_mm3": int(b.sum()) * voxel_volume_mm3, "predicted_mm3": int(a.sum()) * voxel_volume_mm3}
            self.volumes.append({"case": case, "class": name, "dice": dice, **volumes})

    def merge(self, other: SegmentationEvaluation) -> None:
        """Add the volumes that another one has compared."""
        self.slices += other.slices
        self.volumes += other.volumes
        self.num_slices += other.num_slices

    def summary(self, seed: int = 0) -> list[Row]:
        """Return one row per class, and for the lesions together; what nothing is known of is NaN."""
        rows = [self._row(name, [name], seed) for name in self.classes]
        return [*rows, self._row("lesions", self.lesions, seed)]

    def _row(self, name: str, classes: Sequence[str], seed: int) -> Row:
        rows = [row for row in self.slices if row["class"] in classes]
        dice = np.array([row["dice"] for row in rows if not np.isnan(row["dice"])])
        found, there, wrong = (sum(row[key] for row in rows) for key in ("found", "lesions", "false_positives"))
        rate = found / there if there else float("nan")
        per_slice = wrong / self.num_slices if self.num_slices else float("nan")
        low, high = bootstrap_interval(_sums_by_case(rows), _mean_of_sums, seed=seed)
        return {
            "class": name,
            "dice": float(dice.mean()) if len(dice) else float("nan"),
            "dice_sd": float(dice.std()) if len(dice) else float("nan"),
            "b_scans": len(dice),
            "ci_low": low,
            "ci_high": high,
            "detection_rate": rate if set(classes) <= set(self.lesions) else float("nan"),
            "lesions": there,
            "false_positives_per_b_scan": per_slice,
        }


def _sums_by_case(rows: Sequence[Row]) -> np.ndarray:
    """Return the sum and the number of each case's Dice coefficients, (N, 2)."""
    cases: dict[str, list[float]] = {}
    for row in rows:
        if not np.isnan(row["dice"]):
            cases.setdefault(row["case"], []).append(row["dice"])
    return np.array([(sum(values), len(values)) for values in cases.values()]).reshape(-1, 2)


def _mean_of_sums(sums: np.ndarray) -> float:
    total, count = sums.sum(0)
    return float(total / count)
