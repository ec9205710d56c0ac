"""Whether values that healthy pixels were to exceed with some probability are exceeded so on other images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from monai_anomaly.evaluation.figures import new_figure, save_figure
from monai_anomaly.metrics.curves import Curve

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9)


def calibration_rows(curve: Curve, levels: np.ndarray) -> list[dict[str, Any]]:
    """Return what became of the percentiles of healthy pixels on judged ones, a row for each of `PERCENTILES`.

    Args:
        curve: of the judged pixels.
        levels: values at evenly spaced percentiles of healthy pixels seen before, 0 to 100, (L,).

    Returns:
        Rows with "healthy_percentile", "value", "promised_rate" and "healthy_above", the shares of healthy pixels above
        the value then and now, "lesion_above", that of lesions, and "lesion_share", how many of the pixels between
        this value and the next one are lesions. NaN where there is no pixel to tell.
    """
    values = np.interp(PERCENTILES, np.linspace(0, 100, len(levels)), levels)
    above = np.searchsorted(-curve.thresholds, -values, side="left")  # thresholds above each value
    true, false = (np.concatenate(([0.0], counts))[above] for counts in (curve.true_positives, curve.false_positives))
    between = [np.abs(np.diff(np.append(counts, 0.0))) for counts in (true, false)]
    promised = np.mean(levels > values[:, None], axis=1)  # less than percentiles say where many pixels share a value
    with np.errstate(invalid="ignore"):
        shares = between[0] / (between[0] + between[1])
        healthy, lesions = false / np.float64(curve.num_negatives), true / np.float64(curve.num_positives)
    return [
        {
            "healthy_percentile": percentile,
            "value": float(values[index]),
            "promised_rate": float(promised[index]),
            "healthy_above": float(healthy[index]),
            "lesion_above": float(lesions[index]),
            "lesion_share": float(shares[index]),
        }
        for index, percentile in enumerate(PERCENTILES)
    ]


def save_calibration(file: Path, rows: list[dict[str, Any]], curve: Curve) -> None:
    """Write a reliability diagram: promised and observed rates of healthy pixels, and shares of lesions by value.

    Args:
        file: a PNG file.
        rows: of `calibration_rows`.
        curve: of the judged pixels.
    """
    figure, (rates, shares) = new_figure(2, (5.5, 4.6))
    promised = np.array([row["promised_rate"] for row in rows])
    for key, name in (("healthy_above", "healthy pixels"), ("lesion_above", "lesion pixels")):
        observed = np.array([row[key] for row in rows])
        seen = observed > 0
        rates.plot(promised[seen], observed[seen], marker="o", markersize=4, label=name)
    rates.plot(promised, promised, color="0.7", linewidth=0.8, linestyle=":", label="as promised")
    rates.set(
        xscale="log", yscale="log", xlabel="promised share of healthy pixels above", ylabel="observed share above"
    )
    rates.set_title("calibration on healthy pixels")
    rates.legend(fontsize=7)
    bounds = [f"{row['healthy_percentile']:g}" for row in rows]
    names = [f"{low} to {high}" for low, high in zip(bounds, [*bounds[1:], "100"], strict=True)]
    shares.bar(range(len(rows)), np.nan_to_num([row["lesion_share"] for row in rows]))
    total = curve.num_positives + curve.num_negatives
    shares.axhline(curve.num_positives / max(total, 1.0), color="0.4", linewidth=0.8, linestyle=":")
    shares.set_xticks(range(len(rows)), names, rotation=35, ha="right", fontsize=7)
    shares.set(xlabel="healthy percentile of the map's value", ylabel="share of lesion pixels (dotted: of all)")
    shares.set_title("lesions by value")
    for axis in (rates, shares):
        axis.grid(alpha=0.3)
    save_figure(figure, file)
