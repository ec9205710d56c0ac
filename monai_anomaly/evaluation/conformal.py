"""Thresholds from healthy cases alone, with the false-positive rate they promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_anomaly.checks import check_range


def conformal_threshold(healthy_scores: Sequence[float] | np.ndarray, false_positive_rate: float) -> float:
    """Return the score above which a further healthy case lies with at most a given probability (split conformal).

    It is the ceil((n + 1)(1 - a))-th smallest of n healthy scores: whatever their distribution, a case drawn like them
    exceeds it with probability at most a (Vovk et al. 2005). The n cases must not have been fitted on.

    Args:
        healthy_scores: (n,), of healthy cases held out.
        false_positive_rate: a, in (0, 1].

    Raises:
        ValueError: a out of range, scores that are not finite, or too few of them for a.
    """
    check_range("false_positive_rate", false_positive_rate, 0, 1, low_open=True)
    scores = np.sort(np.asarray(healthy_scores, dtype=float).ravel())
    if not np.isfinite(scores).all():
        msg = "healthy_scores must be finite; leave out the cases that failed."
        raise ValueError(msg)
    rank = math.ceil((len(scores) + 1) * (1 - false_positive_rate) - 1e-9)
    if rank > len(scores):
        least = math.ceil(1 / false_positive_rate - 1e-9) - 1
        msg = (
            f"{len(scores)} healthy cases cannot promise a false-positive rate of {false_positive_rate:g}; hold out "
            f"{least} or more (calibration_fraction), or allow more than {1 / (len(scores) + 1):.3g}."
        )
        raise ValueError(msg)
    return float(scores[max(rank, 1) - 1])


def threshold_row(
    healthy_scores: Sequence[float] | np.ndarray,
    false_positive_rate: float,
    scores: Sequence[float],
    labels: Sequence[bool],
) -> dict[str, Any]:
    """Return what a threshold from healthy cases comes to on others: the rate it promised, and what it costs.

    Args:
        healthy_scores: see `conformal_threshold`.
        false_positive_rate: see `conformal_threshold`.
        scores: of the cases to judge.
        labels: whether each is sick.

    Returns:
        A row with "threshold", "promised_rate", "false_positive_rate" and "sensitivity" as measured (NaN without
        healthy, without sick cases), "num_healthy", "num_sick" and "num_failed" (scores that
        are not finite, which count nowhere else).
    """
    threshold = conformal_threshold(healthy_scores, false_positive_rate)
    known = np.isfinite(np.asarray(scores, dtype=float))
    above = np.asarray(scores, dtype=float)[known] > threshold
    sick = np.asarray(labels, dtype=bool)[known]
    return {
        "threshold": threshold,
        "promised_rate": false_positive_rate,
        "false_positive_rate": float(above[~sick].mean()) if (~sick).any() else float("nan"),
        "sensitivity": float(above[sick].mean()) if sick.any() else float("nan"),
        "num_healthy": int((~sick).sum()),
        "num_sick": int(sick.sum()),
        "num_failed": int((~known).sum()),
    }


def threshold_rows(
    healthy_scores: Sequence[float],
    rates: Sequence[float],
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[bool],
) -> list[dict[str, Any]]:
    """Return a row of `threshold_row` for each rate that so many healthy cases can promise.

    Where they can promise none of the rates, the smallest one they can, 1 / (n + 1), has a row; without any healthy
    case there is none. Arguments are those of `threshold_row`.
    """
    if not len(healthy_scores):
        return []
    least = 1 / (len(healthy_scores) + 1)
    possible = [rate for rate in rates if rate >= least - 1e-9] or [least]
    held = {"held_out": len(healthy_scores)}
    return [{**held, **threshold_row(healthy_scores, rate, list(scores), labels)} for rate in possible]
