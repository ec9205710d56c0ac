"""A CSV table that gains rows while a run goes on, and keeps them when it is interrupted."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_anomaly import ranks
from monai_anomaly.data.writers import write_atomically

Row = Mapping[str, Any]


class GrowingTable:
    """Rows with a column "case"; appending one costs the same however many there are.

    Several processes write a file each, which `finish` puts together.

    Args:
        file: the table; it is there as soon as it has a row.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def start(self, done: Collection[str] = ()) -> None:
        """Begin anew, but for the rows of cases that are done."""
        everywhere = set(ranks.joined(list(done)))
        if ranks.is_first():
            _rewrite(self.file, [row for row in _rows(files_of_all(self._of)) if row.get("case") in everywhere])
        ranks.wait()  # all rows are there before the others' files go
        if not ranks.is_first():
            self._of(ranks.index()).unlink(missing_ok=True)
        remove_others(self._of)

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows; all have the same columns."""
        if rows:
            own = self._of(ranks.index())
            own.parent.mkdir(parents=True, exist_ok=True)
            _append(own, rows, header=not own.is_file())

    def finish(self) -> None:
        """Put the rows of all processes together; all must call it."""
        ranks.wait()
        if ranks.count() > 1 and ranks.is_first():
            files = files_of_all(self._of)
            _rewrite(self.file, _rows(files))
            for file in files:
                if file != self.file:
                    file.unlink()

    def _of(self, index: int) -> Path:
        return self.file if index == 0 else self.file.with_name(f".{self.file.stem}.{index}{self.file.suffix}")


def files_of_all(file_of: Callable[[int], Path]) -> list[Path]:
    """Return the files of this run's processes and of those of an earlier run, as far as they are there, in order.

    Args:
        file_of: the path of a process's file, by the process's number.
    """
    first = file_of(1)
    pattern = first.name.replace(".1.", ".*.")
    found = [file for file in first.parent.glob(pattern) if file.name.split(".")[-2].isdecimal()]
    found.sort(key=lambda file: int(file.name.split(".")[-2]))
    return [file for file in dict.fromkeys((file_of(0), *found)) if file.is_file()]


def remove_others(file_of: Callable[[int], Path]) -> None:
    """Remove the files of processes that this run does not have."""
    if ranks.is_first():
        for file in files_of_all(file_of):
            if file not in {file_of(index) for index in range(ranks.count())}:
                file.unlink(missing_ok=True)


def _rows(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the rows of tables, each once; one that was not written whole does not count."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in files:
        with file.open(newline="", encoding="utf-8") as handle:
            rows |= {tuple(row.values()): row for row in csv.DictReader(handle) if None not in row.values()}
    return list(rows.values())


def _rewrite(file: Path, rows: Sequence[Row]) -> None:
    if rows:
        write_atomically(file, lambda path: _append(path, rows, header=True))
    else:
        file.unlink(missing_ok=True)


def _append(path: Path, rows: Sequence[Row], *, header: bool) -> None:
    with path.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        if header:
            writer.writeheader()
        writer.writerows(rows)
