"""Methods against a baseline over folds and seeds: a table with significance, and a figure."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.figures import new_figure, save_figure
from monai_anomaly.evaluation.report import markdown_table, write_csv

Row = dict[str, Any]
Results = Mapping[str, Sequence[tuple[int, int, Path]]]
"""By method: seed, fold, and the folder `SegmentationReport` wrote to."""

_STARS = ((0.01, "**"), (0.05, "*"))


def write_comparison(folder: str | Path, results: Results, baseline: str, notes: Sequence[str] = ()) -> Path:
    """Write ``comparison.csv``, ``comparison.png`` and ``report.md`` and return the latter's path.

    A figure is the mean over folds of the mean over seeds, its spread the standard deviation over folds. Dice
    coefficients are compared with the baseline's on the same B-scans, each the mean over seeds, by Wilcoxon's
    signed-rank test: ** p < 0.01, * p < 0.05 (Kahrs et al. 2025, Fig. 2). No correction for many comparisons.

    Args:
        folder: to write to.
        results: see `Results`.
        baseline: among the methods.
        notes: lines for the report.

    Raises:
        ValueError: no results of the baseline.
    """
    if not results.get(baseline):
        msg = f"No results of {baseline!r} to compare with; see the failures: {'; '.join(notes[:3]) or 'none'}"
        raise ValueError(msg)
    root = Path(folder)
    by_scan = {method: _dice_by_scan(runs) for method, runs in results.items()}
    classes = sorted({name for _, _, name in by_scan[baseline]}, key=_order)
    rows = [_row(method, runs, by_scan, baseline, classes) for method, runs in results.items()]
    write_csv(root / "comparison.csv", rows)
    _draw(root / "comparison.png", rows, baseline, classes)
    counts = [len({run[where] for run in results[baseline]}) for where in (0, 1)]
    shown = [_shown(row, classes) for row in rows]
    lines = ["# Comparison", "", f"{baseline}: {counts[0]} seeds x {counts[1]} folds. Mean and spread over folds."]
    lines += ["A method with fewer runs is not to be compared with the others.", ""]
    lines += [*markdown_table(shown), "", "![figure](comparison.png)", ""]
    lines += ["** p < 0.01, * p < 0.05, Wilcoxon's signed-rank test over B-scans, uncorrected.", ""]
    lines += [*(f"- {note}" for note in notes), ""] if notes else []
    write_atomically(root / "report.md", lambda path: path.write_text("\n".join(lines), encoding="utf-8"))
    return root / "report.md"


def _shown(row: Row, classes: Sequence[str]) -> Row:
    """Return a row of the report: mean, spread and stars in one cell."""
    columns = {f"{name} dice": (f"{name} dice", f"{name} sd", f"{name} stars") for name in classes}
    columns |= {name: (name, f"{name} sd", "") for name in ("detection rate", "false positives")}
    cells = {
        title: "–" if math.isnan(row[value]) else f"{row[value]:.3f} ± {row[spread]:.3f} {row.get(mark, '')}".strip()
        for title, (value, spread, mark) in columns.items()
    }
    return {"method": row["method"], **cells, "detection rate, sd over seeds": row["seed sd"], "runs": row["runs"]}


def paired_test(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test on what both have; NaN where they never differ."""
    shared = [key for key in ours if key in theirs]
    differences = np.array([ours[key] - theirs[key] for key in shared])
    if not len(differences) or not differences.any():
        return float("nan")
    return float(wilcoxon(differences).pvalue)


def stars(p: float) -> str:
    """Return "**" below 0.01, "*" below 0.05, else nothing."""
    return next((mark for level, mark in _STARS if p < level), "")


def _order(name: str) -> int:
    return {"IRF": 0, "SRF": 1, "PED": 2}.get(name, 3)


def _read(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def _dice_by_scan(runs: Sequence[tuple[int, int, Path]]) -> dict[tuple[str, str, str], float]:
    """Return the mean over seeds of each B-scan's and class's Dice coefficient."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for _, _, folder in runs:
        for row in _read(folder / "slices.csv"):
            if row["dice"]:
                values[row["case"], row["slice"], row["class"]].append(float(row["dice"]))
    return {key: float(np.mean(found)) for key, found in values.items()}


def _row(
    method: str,
    runs: Sequence[tuple[int, int, Path]],
    by_scan: Mapping[str, Mapping[tuple[str, str, str], float]],
    baseline: str,
    classes: Sequence[str],
) -> Row:
    tables = {(seed, fold): {row["class"]: row for row in _read(path / "summary.csv")} for seed, fold, path in runs}
    row: Row = {"method": method}
    for name in classes:
        p = float("nan")
        if method != baseline:
            ours, theirs = (
                {key: value for key, value in by_scan[which].items() if key[2] == name} for which in (method, baseline)
            )
            p = paired_test(ours, theirs)
        mean, spread = _over_folds(tables, name, "dice")
        row |= {f"{name} dice": mean, f"{name} sd": spread, f"{name} stars": stars(p), f"p {name}": p}
    for key, title in (("detection_rate", "detection rate"), ("false_positives_per_b_scan", "false positives")):
        row[title], row[f"{title} sd"] = _over_folds(tables, "lesions", key)
    row["seed sd"] = _over_seeds(tables, "lesions", "detection_rate")
    row["runs"] = len(runs)
    return row


def _values(tables: Mapping[tuple[int, int], Mapping[str, Mapping[str, str]]], name: str, key: str) -> dict[Any, float]:
    found = {where: table.get(name, {}).get(key, "") for where, table in tables.items()}
    return {where: float(text) if text else math.nan for where, text in found.items()}


def _over_folds(tables: Mapping[Any, Any], name: str, key: str) -> tuple[float, float]:
    """Return mean and standard deviation over folds of the mean over seeds."""
    by_fold = defaultdict(list)
    for (_, fold), value in _values(tables, name, key).items():
        if not math.isnan(value):
            by_fold[fold].append(value)
    means = [np.mean(values) for values in by_fold.values()]
    return (float(np.mean(means)), float(np.std(means))) if means else (math.nan, math.nan)


def _over_seeds(tables: Mapping[Any, Any], name: str, key: str) -> float:
    """Return the standard deviation over seeds of the mean over folds."""
    by_seed = defaultdict(list)
    for (seed, _), value in _values(tables, name, key).items():
        if not math.isnan(value):
            by_seed[seed].append(value)
    return float(np.std([np.mean(values) for values in by_seed.values()])) if len(by_seed) > 1 else math.nan


def _draw(file: Path, rows: Sequence[Row], baseline: str, classes: Sequence[str]) -> None:
    """Draw a panel for each class's Dice coefficient and one for the detection rate, a bar for each method."""
    panels = [(f"{name} dice", f"{name} sd", f"{name} stars") for name in classes]
    panels.append(("detection rate", "detection rate sd", ""))
    guides = sorted({row["method"].partition(" ")[2] for row in rows})
    colors = dict(zip(guides, ("#777777", "#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377") * 9, strict=False))
    figure, axes = new_figure(len(panels), (0.35 * len(rows) + 1.2, 4.2))
    for axis, (value, spread, mark) in zip(axes, panels, strict=True):
        reference = next(row[value] for row in rows if row["method"] == baseline)
        axis.axhline(reference, color="#999999", linewidth=0.8, linestyle="--")
        for place, row in enumerate(rows):
            color = colors[row["method"].partition(" ")[2]]
            axis.bar(place, row[value], yerr=row[spread], color=color, capsize=2, error_kw={"linewidth": 0.8})
            height = np.nan_to_num(row[value]) + np.nan_to_num(row[spread])
            axis.text(place, height, row.get(mark, ""), ha="center", va="bottom")
        axis.set_xticks(range(len(rows)), [row["method"] for row in rows], rotation=90)
        axis.set_title(value)
        axis.set_ylim(0, 1.08)
    save_figure(figure, file)
