"""Image-level classification of several lesions at once, class by class and together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_anomaly.evaluation.bootstrap import bootstrap_interval
from monai_anomaly.evaluation.map_evaluation import image_curve
from monai_anomaly.metrics.curves import roc_auc


def classification_rows(
    probabilities: np.ndarray, present: np.ndarray, class_names: Sequence[str], seed: int = 0
) -> list[dict[str, Any]]:
    """Return accuracy, F1 score and AUROC of each class, and their means (Yang et al. 2024, Table 3).

    Accuracy and F1 are at a probability of 0.5. What is undefined is NaN: F1 without an image of a class found or
    there, AUROC without images of both kinds.

    Args:
        probabilities: (number of images, K), in [0, 1].
        present: the same shape, 0 or 1.
        class_names: K of them.
        seed: of the bootstrap over images.
    """
    rows = []
    for number, name in enumerate(class_names):
        pairs = np.stack((probabilities[:, number], present[:, number]), 1)
        found, there = pairs[:, 0] > 0.5, pairs[:, 1] > 0.5
        both, marked = int((found & there).sum()), int(found.sum() + there.sum())
        low, high = bootstrap_interval(pairs, _auroc, num_draws=500, seed=seed)
        rows.append(
            {
                "class": name,
                "accuracy": float((found == there).mean()),
                "f1": 2 * both / marked if marked else float("nan"),
                "auroc": _auroc(pairs),
                "ci_low": low,
                "ci_high": high,
                "num_images": len(pairs),
                "num_present": int(there.sum()),
            }
        )
    means = {key: float(np.mean(known)) if (known := _known(rows, key)) else float("nan") for key in _MEANS}
    return [*rows, {**dict.fromkeys(rows[0], float("nan")), "class": "mean", **means, "num_images": len(present)}]


_MEANS = ("accuracy", "f1", "auroc")


def _known(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if not np.isnan(row[key])]


def _auroc(pairs: np.ndarray) -> float:
    return roc_auc(image_curve(pairs))
