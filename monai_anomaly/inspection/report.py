"""What was seen, as a table, a JSON and a picture; and whether training may start."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from PIL import Image, ImageDraw

from monai_anomaly.data import write_atomically
from monai_anomaly.inspection.case import ERROR, THUMBNAIL, WARNING, Look

COLUMNS = (
    "case", "section", "group", "shape", "spacing", "orientation", "dtype", "min", "max", "mean", "lesion_pixels",
    "problems",
)  # fmt: skip
_SHOWN = 5  # findings of a kind in the summary
_KEPT = 200  # of a kind in the JSON; findings.csv has all


class Report:
    """Collect cases and findings; the files appear when the ``with`` block ends without an error.

    Args:
        folder: to write to.
        spec: what the cases were taken for.
        headers_only: whether pixels were left alone.
    """

    def __init__(self, folder: Path, spec: str, headers_only: bool = False) -> None:
        self.folder, self.spec, self.headers_only = folder, spec, headers_only
        self.counts: Counter[tuple[str, str]] = Counter()
        self.found: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.ranges: dict[str, tuple[float, float]] = {}
        self.values: dict[str, Counter[str]] = {key: Counter() for key in ("shape", "spacing", "orientation", "dtype")}
        self.pictures: list[tuple[str, bool, np.ndarray]] = []
        self._open: dict[str, IO[str]] = {}

    def __enter__(self) -> Report:
        for name in ("cases", "findings"):
            self._open[name] = self._part(name).open("w", newline="", encoding="utf-8")
        self._cases = csv.DictWriter(self._open["cases"], COLUMNS, restval="")
        self._cases.writeheader()
        self._findings = csv.writer(self._open["findings"])
        self._findings.writerow(("severity", "kind", "case", "text"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, file in self._open.items():
            file.close()
            if kind is None:
                self._part(name).replace(self.folder / f"{name}.csv")
            else:
                self._part(name).unlink(missing_ok=True)
        if kind is None:
            text = json.dumps(self.summary(), indent=4) + "\n"
            write_atomically(self.folder / "report.json", lambda part: part.write_text(text, encoding="utf-8"))
            if self.pictures:
                write_atomically(self.folder / "contact_sheet.png", self._draw)

    def add(self, look: Look) -> None:
        """Take a case."""
        row = look.row
        self.counts[row["section"], row["group"]] += 1
        for key, counter in self.values.items():
            if row.get(key) and (row[key] in counter or len(counter) < 1000):
                counter[row[key]] += 1
        if "min" in row:
            low, high = self.ranges.get(row["section"], (math.inf, -math.inf))
            self.ranges[row["section"]] = (min(low, row["min"]), max(high, row["max"]))
        self._cases.writerow({**row, "problems": "; ".join(kind for _, kind, _ in look.problems)})
        for severity, kind, text in look.problems:
            self.find(severity, kind, text, row["case"])
        if look.thumbnail is not None:
            bad = any(severity == ERROR for severity, _, _ in look.problems)
            self.pictures.append((str(row["case"]), bad, look.thumbnail))

    def find(self, severity: str, kind: str, text: str, case: str = "") -> None:
        """Take a finding."""
        self.found[severity, kind] += 1
        if self.found[severity, kind] <= _KEPT:
            self.examples[severity, kind].append(f"{case}: {text}" if case else text)
        self._findings.writerow((severity, kind, case, text))

    @property
    def num_errors(self) -> int:
        """Return how many findings forbid training."""
        return sum(count for (severity, _), count in self.found.items() if severity == ERROR)

    def summary(self) -> dict[str, Any]:
        """Return everything but the single cases."""
        return {
            "spec": self.spec,
            "pixels": "not read" if self.headers_only else "read",
            "cases": [
                {"section": section, "group": group, "count": n} for (section, group), n in sorted(self.counts.items())
            ],
            **{key: dict(counter.most_common(20)) for key, counter in self.values.items()},
            "intensity": {section: list(pair) for section, pair in self.ranges.items()},
            "findings": [
                {"severity": severity, "kind": kind, "count": count, "examples": self.examples[severity, kind]}
                for (severity, kind), count in sorted(self.found.items())
            ],
            "may_train": not self.num_errors,
        }

    def lines(self) -> list[str]:
        """Return the summary as a person reads it, the verdict last."""
        lines = [
            f"{section:<11} {group:<10} {count:>7} cases" for (section, group), count in sorted(self.counts.items())
        ]
        for key, counter in self.values.items():
            if counter:
                shown = ", ".join(f"{value} ({count})" for value, count in counter.most_common(3))
                lines.append(f"{key:<11} {shown}{f', {len(counter) - 3} more' if len(counter) > 3 else ''}")
        for section, (low, high) in self.ranges.items():
            lines.append(f"{'intensity':<11} {low:g} to {high:g} ({section})")
        for (severity, kind), count in sorted(self.found.items()):
            lines.append(f"{severity}: {kind} ({count})")
            examples = self.examples[severity, kind]
            lines += [f"    {text}" for text in examples[:_SHOWN]]
            lines += [f"    and {count - _SHOWN} more, see findings.csv"] if count > _SHOWN else []
        warnings = sum(count for (severity, _), count in self.found.items() if severity == WARNING)
        verdict = "training may not start" if self.num_errors else "training may start"
        seen = (
            "headers only: NaN, copies, labels' values and cuts within .gz files were not looked for"
            if self.headers_only
            else ""
        )
        return [*lines, f"{verdict}: errors {self.num_errors}, warnings {warnings}{f'; {seen}' if seen else ''}"]

    def _part(self, name: str) -> Path:
        return self.folder / f".{name}.part.csv"

    def _draw(self, path: Path) -> None:
        """Draw the contact sheet: cases with errors have a red frame."""
        columns = min(8, len(self.pictures))
        cell, text = THUMBNAIL + 12, 14
        rows = -(-len(self.pictures) // columns)
        sheet = Image.new("RGB", (columns * cell, rows * (cell + text)), "white")
        draw = ImageDraw.Draw(sheet)
        for number, (case, bad, picture) in enumerate(self.pictures):
            left, top = number % columns * cell, number // columns * (cell + text)
            height, width = picture.shape[:2]
            place = (left + (cell - width) // 2, top + (cell - height) // 2)
            sheet.paste(Image.fromarray(picture), place)
            if bad:
                draw.rectangle((left + 2, top + 2, left + cell - 3, top + cell - 3), outline=(220, 0, 0), width=2)
            draw.text(
                (left + 4, top + cell - 2), case if len(case) < 18 else f"{case[:7]}..{case[-8:]}", fill=(40, 40, 40)
            )
        sheet.save(path)
