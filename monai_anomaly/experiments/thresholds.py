"""A threshold of any detector's score from a run on healthy cases, and what it costs on another run's."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_anomaly.checks import check_directory, check_range
from monai_anomaly.evaluation.conformal import threshold_rows
from monai_anomaly.evaluation.report import markdown_table, write_csv
from monai_anomaly.keys import CASE

logger = logging.getLogger(__name__)

_MAY_DIFFER = ("dataset_dir", "section", "data_spec")


def run_thresholds(
    healthy: str | Path, judged: str | Path, rates: Sequence[float] = (0.05, 0.1, 0.2)
) -> list[dict[str, Any]]:
    """Write ``healthy_thresholds.csv`` into a run's folder, a row for each promised rate, and return its rows.

    A case like the healthy ones scores above the threshold with at most the promised probability (split conformal, see
    `conformal_threshold`). What became of it on the judged cases stands beside: the share of those of group "normal"
    above it, and of the other groups, the sensitivity; NaN where there are none. Groups are the data spec's: in plain
    folders a case with a label file is sick, whatever the file holds. Cases without a group do not count,
    and those that failed or have no number for a score do in "num_failed" alone.

    Args:
        healthy: ``output_dir`` of a run on healthy cases that the detector was not fitted on.
        judged: ``output_dir`` of a run of the same detector on others.
        rates: to promise, as far as there are healthy cases enough; else the least one they can.

    Raises:
        FileNotFoundError: a folder that is not a run's.
        ValueError: a rate out of (0, 1], sick cases among the healthy, a healthy score that is no number, cases in both
            runs, or runs of different detectors.
    """
    for rate in rates:
        check_range("rate", rate, 0, 1, low_open=True)
    first, second = _Scores(healthy), _Scores(judged)
    bad = [case for case, score in first.scores.items() if not math.isfinite(score)]
    if bad:
        msg = f"The score of {bad[0]} in {str(healthy)!r} is {first.scores[bad[0]]}; expected numbers."
        raise ValueError(msg)
    sick = sorted(case for case, group in first.groups.items() if group not in ("", "normal", "unlabeled"))
    if sick:
        msg = f"{str(healthy)!r} has {len(sick)} cases that are not healthy, {sick[0]} among them; leave them out."
        raise ValueError(msg)
    different = sorted(key for key in first.settings.keys() | second.settings.keys() if first.differs(second, key))
    if different:
        msg = f"The two runs are not of one detector: {', '.join(different)} differ; repeat one of them."
        raise ValueError(msg)
    both = sorted(first.files.keys() & second.files.keys())
    if both:
        msg = f"{len(both)} cases are in both runs, {first.files[both[0]]} among them; take other healthy ones."
        raise ValueError(msg)
    known = {case: score for case, score in second.scores.items() if second.groups[case] not in ("", "unlabeled")}
    labels = [second.groups[case] != "normal" for case in known]
    rows = threshold_rows(list(first.scores.values()), rates, list(known.values()), labels)
    for row in rows:
        row["num_failed"] += second.num_failed
    least = 1 / (1 + len(first.scores))
    if min(rates) < least:
        logger.warning("%d healthy cases cannot promise less than %.3g.", len(first.scores), least)
    write_csv(Path(judged) / "healthy_thresholds.csv", rows)
    return rows


def thresholds_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    return "\n".join([*markdown_table(rows), ""])


class _Scores:
    """The scores, groups and image files of a run's cases, and what it was run with."""

    def __init__(self, folder: str | Path) -> None:
        root = check_directory("OUT", folder)
        rows = {name: _rows(root / f"{name}.csv") for name in ("scores", "files")}
        for name, found in rows.items():
            if not found:
                msg = f"{str(root)!r} has no {name}.csv with cases; pass the output_dir of an inference."
                raise FileNotFoundError(msg)
        if not all("anomaly_score" in row for row in rows["scores"]):
            msg = f"{str(root / 'scores.csv')!r} has no column anomaly_score; pass the output_dir of an inference."
            raise ValueError(msg)
        self.scores = {row[CASE]: float(row["anomaly_score"] or "nan") for row in rows["scores"]}
        self.num_failed = len(_rows(root / "failures.csv"))
        listed = {row[CASE]: row for row in rows["files"]}
        self.groups = {case: listed.get(case, {}).get("group", "") for case in self.scores}
        self.files = {listed[case]["image"]: case for case in self.scores if case in listed}
        journal = root / "run.json"
        told = json.loads(journal.read_text(encoding="utf-8")) if journal.is_file() else {}
        if not told:
            logger.warning("%s has no run.json: nobody knows which weights it was run with.", root)
        elif not told["over"] and not self.num_failed:
            msg = f"The run in {str(root)!r} is not over; start it again, it goes on."
            raise ValueError(msg)
        self.settings = {key: value for key, value in told.get("settings", {}).items() if key not in _MAY_DIFFER}

    def differs(self, other: _Scores, key: str) -> bool:
        """Whether both runs tell a setting, and not the same."""
        return key in self.settings and key in other.settings and self.settings[key] != other.settings[key]


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))
