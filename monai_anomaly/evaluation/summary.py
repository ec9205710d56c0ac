"""Tables of cases, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_anomaly.evaluation.bootstrap import bootstrap_interval


def summarize(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Return mean, standard deviation, counts and bootstrap interval of numeric columns.

    A NaN says that the measure is undefined for a case, as Dice is without a lesion; such cases are left out of the
    mean and counted.

    Args:
        rows: one per case.
        columns: to summarize.
        seed: of the bootstrap.

    Returns:
        Rows with "measure", "mean", "sd" (n - 1), "num_cases", "num_left_out", "ci_low", "ci_high" (95 %).
    """
    result = []
    for column in columns:
        values = np.array([float(row[column]) for row in rows])
        known = values[~np.isnan(values)]
        low, high = bootstrap_interval(known, lambda drawn: float(drawn.mean()), seed=seed)
        result.append(
            {
                "measure": column,
                "mean": float(known.mean()) if len(known) else float("nan"),
                "sd": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
                "num_cases": len(known),
                "num_left_out": len(values) - len(known),
                "ci_low": low,
                "ci_high": high,
            }
        )
    return result
