"""What can be read off two score distributions: ROC, precision-recall, Dice and balanced accuracy over all thresholds.

Every function returns NaN where the answer is undefined: without positives, and for ROC also without negatives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from monai_anomaly.metrics.score_distribution import LabeledScores


class Curve(NamedTuple):
    """Counts of scores at or above each distinct threshold, thresholds descending, all (T,)."""

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray

    @classmethod
    def of(cls, scores: LabeledScores) -> Curve:
        """Return the curve of what has been seen so far."""
        positive, positive_weights = scores.positives.entries()
        negative, negative_weights = scores.negatives.entries()
        values = np.concatenate((positive, negative))
        order = np.argsort(-values, kind="stable")
        values = values[order]
        true = np.cumsum(np.concatenate((positive_weights, np.zeros(len(negative))))[order])
        false = np.cumsum(np.concatenate((np.zeros(len(positive)), negative_weights))[order])
        last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1) if len(values) else np.empty(0, np.int64)
        return cls(values[last], true[last], false[last])

    @property
    def num_positives(self) -> float:
        """How many positives there are."""
        return float(self.true_positives[-1]) if len(self.true_positives) else 0.0

    @property
    def num_negatives(self) -> float:
        """How many negatives there are."""
        return float(self.false_positives[-1]) if len(self.false_positives) else 0.0

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return false and true positive rates from (0, 0) to (1, 1), in [0, 1]."""
        false = np.concatenate(([0.0], self.false_positives)) / max(self.num_negatives, 1e-300)
        true = np.concatenate(([0.0], self.true_positives)) / max(self.num_positives, 1e-300)
        return false, true


def roc_auc(curve: Curve) -> float:
    """Return the area under the ROC curve, in [0, 1]: the chance that a positive scores above a negative."""
    if not curve.num_positives or not curve.num_negatives:
        return float("nan")
    false, true = curve.rates()
    return float(np.trapezoid(true, false))


def average_precision(curve: Curve) -> float:
    """Return the area under precision over recall as a sum of steps, in [0, 1] (as scikit-learn's)."""
    if not curve.num_positives:
        return float("nan")
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    recall = curve.true_positives / curve.num_positives
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def best_dice(curve: Curve) -> tuple[float, float]:
    """Return the largest Dice of any threshold, in [0, 1], and that threshold: 2 TP / (P + TP + FP)."""
    if not curve.num_positives:
        return float("nan"), float("nan")
    dice = 2 * curve.true_positives / (curve.num_positives + curve.true_positives + curve.false_positives)
    best = int(dice.argmax())
    return float(dice[best]), float(curve.thresholds[best])


def balanced_accuracy(curve: Curve) -> tuple[float, float]:
    """Return the largest mean of true positive and true negative rate, in [0.5, 1], and its threshold.

    The papers do not say how the threshold is chosen; this is the one that makes the most of the test set's ROC curve.
    """
    if not curve.num_positives or not curve.num_negatives:
        return float("nan"), float("nan")
    false, true = curve.rates()
    accuracy = (true + 1 - false) / 2
    best = int(accuracy.argmax())
    return float(accuracy[best]), float(np.concatenate(([np.inf], curve.thresholds))[best])
