"""Intervals by drawing the cases again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    num_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over cases drawn with replacement.

    Args:
        values: one row per case, (N, ...).
        statistic: of such rows; NaN where a draw does not allow it, and such draws are left out.
        num_draws: how often.
        level: of confidence, in (0, 1).
        seed: of the draws.

    Returns:
        Lower and upper end; NaN for fewer than two cases or where no draw allowed the statistic.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    drawn = np.array([statistic(values[generator.integers(0, len(values), len(values))]) for _ in range(num_draws)])
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
