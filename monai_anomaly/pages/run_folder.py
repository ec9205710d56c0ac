"""What a run has left in its output folder."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_anomaly.checks import check_directory
from monai_anomaly.data.suffixes import suffix_of

MAP = "anomaly_map"
PREDICTIONS = ("mask", "segmentation", "pseudo_label")
_FIGURES = re.compile(r"(.*_)?(curves|calibration)|sweep")
_TABLES = re.compile(
    r"(.*_)?(images|pooled|summary|grades)|(healthy_)?thresholds|overlap|classification"
)  # of a whole run


@dataclass
class CaseOfRun:
    """A case: where its files lie, and what the run's tables say of it."""

    name: str
    group: str
    image: Path
    labels: list[Path]
    anomaly_map: Path | None = None
    prediction: Path | None = None
    picture: Path | None = None
    scores: dict[str, float] = field(default_factory=dict)
    slice_scores: list[float] = field(default_factory=list)
    slice_axis: int = 2


class RunFolder:
    """Tables, figures and cases of an inference or evaluation.

    Args:
        folder: the run's ``output_dir``.

    Raises:
        FileNotFoundError: no such folder, or not one of a run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_directory("OUT", folder)
        files = self.folder / "files.csv"
        if not files.is_file():
            msg = (
                f"{str(self.folder)!r} has no files.csv; pass the output_dir of an inference or evaluation "
                f"(python -m monai_anomaly run BUNDLE inference --output_dir OUT)."
            )
            raise FileNotFoundError(msg)
        self.name = self.folder.resolve().name
        self.cases = {row["case"]: _case(row, self.folder) for row in read_rows(files)}
        self.tables: dict[str, list[dict[str, str]]] = {}
        for file in sorted(self.folder.glob("*.csv")):
            rows = read_rows(file)
            if rows and "case" in rows[0]:
                self._take_scores(file.stem, rows)
            elif rows and _TABLES.fullmatch(file.stem):
                self.tables[file.stem] = rows
        self.failures = read_rows(self.folder / "failures.csv")
        self.figures = sorted(file for file in self.folder.glob("*.png") if _FIGURES.fullmatch(file.stem))
        self._find_outputs()
        self._take_slices()

    def _take_scores(self, table: str, rows: list[dict[str, str]]) -> None:
        """Note the numbers of tables with a row per case; of those with several, as of classes, their class beside."""
        if table in ("slices", "slice_scores", "files"):
            return
        protocol = table.removesuffix("_cases").removesuffix("cases")
        for row in rows:
            case = self.cases.get(row.get("case", ""))
            if case is None or "slice" in row:
                continue
            kind = row.get("class", "")
            for column, text in row.items():
                value = _number(text)
                if column in ("case", "group", "class") or value is None:
                    continue
                place = "" if column == "anomaly_score" or not protocol.strip() else protocol
                place = "" if table in ("scores", "volumes", "probabilities") else place
                case.scores[" ".join(word for word in (kind, place, column) if word).replace("_", " ")] = value

    def _take_slices(self) -> None:
        for row in read_rows(self.folder / "slice_scores.csv"):
            case, value = self.cases.get(row["case"]), _number(row["anomaly_score"])
            if case is not None:
                case.slice_scores.append(float("nan") if value is None else value)

    def _find_outputs(self) -> None:
        """Find each case's files by the path below the data set's folder, which they share with its image."""
        found: dict[tuple[str, ...], dict[str, Path]] = {}
        for file in self.folder.rglob("*"):
            stem = file.name.removesuffix(suffix_of(file.name) or file.suffix)
            for postfix in (MAP, *PREDICTIONS, "overlay", "maps"):
                if stem.endswith(f"_{postfix}") and file.is_file():
                    parts = (*file.relative_to(self.folder).parent.parts, stem.removesuffix(f"_{postfix}"))
                    parts = parts[1:] if parts[0] == "labels" and postfix == "pseudo_label" else parts
                    found.setdefault(parts, {})[postfix] = file
        for case in self.cases.values():
            image = case.image
            whole = (*image.parent.parts, image.name.removesuffix(suffix_of(image.name) or image.suffix))
            named = tuple(Path(case.name).parts)
            outputs: dict[str, Path] = {}
            for parts in (*(whole[start:] for start in range(len(whole))), named):
                outputs = {**found.get(parts, {}), **outputs}
            case.anomaly_map = outputs.get(MAP)
            case.prediction = next((outputs[name] for name in PREDICTIONS if name in outputs), None)
            drawn = self.folder / "cases" / f"{case.name}.png"
            pictures = [drawn, *(outputs[name] for name in ("overlay", "maps") if name in outputs)]
            case.picture = next((file for file in pictures if file.is_file()), None)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return a table's rows; none where there is no table."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def common_cases(runs: Iterable[RunFolder]) -> list[str]:
    """Return the cases that all runs have, in the first one's order.

    Raises:
        ValueError: there are none.
    """
    first, *others = runs
    names = [name for name in first.cases if all(name in run.cases for run in others)]
    if not names:
        listed = ", ".join(run.name for run in (first, *others))
        msg = f"No case is in all of {listed}; pass runs on the same data." if others else f"{listed} has no case done."
        raise ValueError(msg)
    return names


def _case(row: dict[str, Any], folder: Path) -> CaseOfRun:
    image, *_ = row["image"].split("|")
    labels = [folder / file for file in row.get("label", "").split("|") if file]
    axis = int(row.get("slice_axis") or 2)
    return CaseOfRun(row["case"], row.get("group", ""), folder / image, labels, slice_axis=axis)


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
