"""A CSV table that gains rows while a run goes on, and keeps them when it is interrupted."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_anomaly.data.writers import write_atomically

Row = Mapping[str, Any]


class GrowingTable:
    """Rows with a column "case"; appending one costs the same however many there are.

    Args:
        file: the table; it is there as soon as it has a row.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def start(self, done: Collection[str] = ()) -> None:
        """Begin anew, but for the rows of cases that are done."""
        if not self.file.is_file():
            return
        with self.file.open(newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if row.get("case") in done and None not in row.values()]
        if rows:
            write_atomically(self.file, lambda path: _append(path, rows, header=True))
        else:
            self.file.unlink()

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows; all have the same columns."""
        if rows:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            _append(self.file, rows, header=not self.file.is_file())


def _append(path: Path, rows: Sequence[Row], *, header: bool) -> None:
    with path.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        if header:
            writer.writeheader()
        writer.writerows(rows)
