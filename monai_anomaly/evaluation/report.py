"""The report: one Markdown page, the tables behind it as CSV, and the figures."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.calibration import calibration_rows, save_calibration
from monai_anomaly.evaluation.figures import save_curves
from monai_anomaly.evaluation.map_evaluation import MapEvaluation, image_curve, image_interval
from monai_anomaly.evaluation.mask_evaluation import MaskEvaluation
from monai_anomaly.evaluation.summary import summarize
from monai_anomaly.metrics.curves import Curve, average_precision, balanced_accuracy, roc_auc

Row = Mapping[str, Any]


def write_report(
    folder: Path,
    evaluations: Sequence[MapEvaluation],
    notes: Sequence[str],
    seed: int = 0,
    masks: MaskEvaluation | None = None,
    thresholds: Sequence[Row] = (),
    healthy_levels: np.ndarray | None = None,
) -> Path:
    """Write ``report.md``, CSV tables and curves, and return the report's path.

    Args:
        folder: where everything goes; ``cases`` below it holds the figure of each case.
        evaluations: one per protocol.
        notes: sentences that stand above the tables.
        seed: of the bootstrap.
        masks: Dice of masks, None for a detector that gives maps alone.
        thresholds: rows of `threshold_rows`.
        healthy_levels: see `calibration_rows`; None for no such section.
    """
    lines = [f"# Evaluation of {evaluations[0].method}", "", *notes, ""]
    lines += [
        "AUROC, AUPR and Dice are in [0, 1]; Dice is at the threshold that makes it largest on these very labels."
    ]
    if masks is not None:
        lines += ["", *_mask_section(folder, masks, seed)]
    if thresholds:
        write_csv(folder / "thresholds.csv", thresholds)
        note = (
            "From healthy cases held out, before any of these was seen: a further healthy case like them scores higher "
            "with at most the promised probability (split conformal). Beside it what came of it on these cases."
        )
        lines += ["", "## Thresholds of the score", "", note, "", *markdown_table(thresholds)]
    for evaluation in evaluations:
        lines += ["", *_protocol_section(folder, evaluation, seed)]
        if healthy_levels is not None:
            lines += ["", *_calibration_section(folder, evaluation, healthy_levels)]
    pictures = sorted((folder / "cases").rglob("*.png"))
    if pictures:
        lines += ["", "## Cases", ""]
        lines += [f"![{p.stem}](<{p.relative_to(folder).as_posix()}>)" for p in pictures]
    text = "\n".join(lines) + "\n"
    return write_atomically(folder / "report.md", lambda path: path.write_text(text, encoding="utf-8"))


def _mask_section(folder: Path, masks: MaskEvaluation, seed: int) -> list[str]:
    summary = masks.summary(seed)
    write_csv(folder / "masks_cases.csv", masks.table())
    write_csv(folder / "masks_summary.csv", summary)
    note = "The last row's threshold is the one that makes its mean Dice largest on these very labels."
    return [f"## Masks: Dice by {masks.by}", "", note, "", *markdown_table(summary)]


def _protocol_section(folder: Path, evaluation: MapEvaluation, seed: int) -> list[str]:
    name = evaluation.protocol.name
    pooled, images = evaluation.pooled_rows(), image_rows(evaluation, seed)
    summary, grades = summarize(evaluation.rows, evaluation.COLUMNS, seed), evaluation.grade_rows()
    tables = {"cases": evaluation.rows, "summary": summary, "pooled": pooled, "images": images, "grades": grades}
    for table, rows in tables.items():
        if rows:
            write_csv(folder / f"{name}_{table}.csv", rows)
    write_curves(folder / f"{name}_curves.png", evaluation.curves())
    protocol = evaluation.protocol
    size = "the file's own size" if protocol.size is None else f"{protocol.size[0]} x {protocol.size[1]}"
    counted = {"all": "every pixel", "field_of_view": "the field of view", "content": "voxels that are not background"}
    lines = [
        f"## Protocol {name}",
        "",
        f"{len(evaluation.rows)} cases at {size}; {counted[protocol.region]} counts"
        f"{', excluded structures left out' if protocol.excluded else ''}.",
        "",
        "### All pixels pooled",
        "",
        *markdown_table(pooled),
        "",
        f"![curves]({name}_curves.png)",
        "",
        f"### Per case, {evaluation.method}",
        "",
        *markdown_table(summary),
    ]
    if images:
        lines += ["", "### Images, lesioned against healthy", "", *markdown_table(images)]
    if grades:
        lines += ["", "### Images by grade, AUROC", "", *markdown_table(grades)]
    return lines


def _calibration_section(folder: Path, evaluation: MapEvaluation, levels: np.ndarray) -> list[str]:
    name, curve = evaluation.protocol.name, evaluation.curves()[evaluation.method]
    rows = calibration_rows(curve, levels)
    write_csv(folder / f"{name}_calibration.csv", rows)
    save_calibration(folder / f"{name}_calibration.png", rows, curve)
    note = (
        "Values that so many of the healthy pixels exceed on which the training calibrated (whole pictures; of brains "
        "and livers the organ), and the shares of this protocol's pixels that do. Where both count the same region, "
        "far more healthy pixels above than promised mean that these images are unlike those, or that lesions reach "
        "beyond their outlines. Lesion share: of the pixels up to the next value."
    )
    picture = f"![calibration]({name}_calibration.png)"
    return ["### Calibration of the pixels", "", note, "", *markdown_table(rows), "", picture]


def write_curves(file: Path, curves: Mapping[str, Curve]) -> None:
    """Write the curves of several methods, their areas in the legend."""
    save_curves(file, curves, {name: (roc_auc(curve), average_precision(curve)) for name, curve in curves.items()})


def image_rows(evaluation: MapEvaluation, seed: int) -> list[dict[str, Any]]:
    """Return per method the figures of its image scores, with the interval of the AUROC over cases."""
    rows = []
    for name, pairs in evaluation.image_rows():
        curve = image_curve(pairs)
        low, high = image_interval(pairs, evaluation.image_cases, seed)
        rows.append(
            {
                "method": name,
                "image_auroc": roc_auc(curve),
                "ci_low": low,
                "ci_high": high,
                "image_aupr": average_precision(curve),
                "balanced_accuracy": balanced_accuracy(curve)[0],
                "num_cases": len(pairs),
            }
        )
    return rows


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    """Write rows that share their columns; NaN as an empty cell."""

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({key: "" if _is_nan(value) else value for key, value in row.items()} for row in rows)

    write_atomically(file, write)


def markdown_table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a Markdown table; numbers with four digits, NaN as a dash."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(column.replace("_", " ") for column in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
    return lines


def _cell(value: Any) -> str:
    if _is_nan(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
