"""How many lesions a segmentation finds, and how many it makes up."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import convert_to_tensor
from scipy import ndimage
from torch import Tensor


def count_touched(reference: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Return how many lesions of one mask the other touches in at least one pixel, and how many there are.

    Pixels that meet in an edge or a corner are of one lesion: 8 neighbors in images, 26 in volumes.

    Args:
        reference: bool, (H, W) or (H, W, D).
        other: bool, the same shape.

    Raises:
        ValueError: masks of different shapes.
    """
    if reference.shape != other.shape:
        msg = f"Masks must have one shape, got {reference.shape} and {other.shape}."
        raise ValueError(msg)
    if not reference.any():
        return 0, 0
    labeled, count = ndimage.label(reference, np.ones((3,) * reference.ndim))
    touched = np.unique(labeled[other])
    return int((touched > 0).sum()), int(count)


class LesionDetectionRateMetric(CumulativeIterationMetric):
    """Lesions found over lesions there are, pooled over all images: Kahrs et al.'s fluid detection rate, in [0, 1].

    A lesion is found if the prediction of the same class shares one pixel with it.

    Args:
        include_background: count channel 0 too.
        any_class: a lesion counts as found whatever class its pixels were given.
        pooled: `aggregate` returns one rate over all classes, otherwise one for each.

    Shape:
        one-hot masks (B, K, H, W) or (B, K, H, W, D), as MONAI's metrics take them; aggregated () or (K',), NaN where
        there is no lesion, K' = K - 1 without background.

    Raises:
        ValueError: masks of different or unfit shapes.
    """

    def __init__(self, include_background: bool = False, any_class: bool = False, pooled: bool = True) -> None:
        super().__init__()
        self.include_background, self.any_class, self.pooled = include_background, any_class, pooled

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: object) -> Tensor:
        del kwargs
        if y is None or y.shape != y_pred.shape or y.ndim not in (4, 5):
            came = None if y is None else tuple(y.shape)
            msg = f"Expected two one-hot masks (B, K, H, W[, D]), got {tuple(y_pred.shape)} and {came}."
            raise ValueError(msg)
        first = 0 if self.include_background else 1
        predicted, true = (convert_to_tensor(mask)[:, first:].cpu().numpy() > 0 for mask in (y_pred, y))
        if self.any_class:
            predicted = np.broadcast_to(predicted.any(1, keepdims=True), predicted.shape)
        counts = [
            [count_touched(there, found) for there, found in zip(*pair, strict=True)]
            for pair in zip(true, predicted, strict=True)
        ]
        return torch.tensor(counts, dtype=torch.float32)  # (B, K', 2)

    def aggregate(self) -> Tensor:
        """Return the rate so far."""
        counts = convert_to_tensor(self.get_buffer()).sum(0)
        found, there = (counts.sum(0) if self.pooled else counts).unbind(-1)
        return found / torch.where(there > 0, there, torch.nan)


def compare_masks(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Return Dice coefficient, lesions found, lesions there, and lesions made up, of one class.

    Args:
        predicted: bool, (H, W) or (H, W, D).
        true: bool, the same shape.

    Returns:
        "dice" in [0, 1], NaN where nothing is true; "found", "lesions", "false_positives".
    """
    num_true, num_predicted = int(true.sum()), int(predicted.sum())
    dice = 2 * int((predicted & true).sum()) / (num_true + num_predicted) if num_true else float("nan")
    found, there = count_touched(true, predicted)
    right, marked = count_touched(predicted, true)
    return {"dice": dice, "found": found, "lesions": there, "false_positives": marked - right}
