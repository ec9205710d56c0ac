"""Which cases a run has done, so that the same command goes on where it was interrupted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_anomaly import __version__, ranks
from monai_anomaly.checks import check_option, file_digest
from monai_anomaly.data.cases import CaseDataset
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.handlers.growing_table import files_of_all, remove_others
from monai_anomaly.keys import CASE

logger = logging.getLogger(__name__)


class CaseJournal:
    """Write ``run.json`` with each case that is done, and leave those out when the same run starts again.

    A run is the same where its weights and settings are; it starts anew where the last one did every case. Cases that
    failed are tried again. Attach it before the handlers that write tables: they keep the rows of `done_cases`.
    Of several processes each keeps a list of its own cases; a next run, of however many, reads all.

    Args:
        output_dir: where the file goes.
        dataset: of the cases.
        weights: file of the weights.
        settings: whatever the results depend on, plain values; the version of this package is added.
        resume: False starts anew; "auto" and True go on where there is something to go on with.

    Raises:
        ValueError: unknown ``resume``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        dataset: CaseDataset,
        weights: str | Path | None,
        settings: Mapping[str, Any],
        resume: bool | str = "auto",
    ) -> None:
        self.file = Path(output_dir) / "run.json"
        self.dataset, self.weights = dataset, weights
        self.resume = bool(check_option("resume", resume, (True, False, "auto")))
        self.settings = {"version": __version__, **{name: str(value) for name, value in settings.items()}}
        self.done: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        self.settings |= {"weights": file_digest(self.weights)}
        before = self._read() if self.resume else {}
        known = {record[CASE] for record in self.dataset.data}
        same = before.get("settings") == self.settings and not before.get("over")
        self.done = [case for case in self._lines() if case in known] if same else []
        ranks.wait()  # everyone has read the lists
        if self.done:
            logger.info("%d of %d cases are done already", len(self.done), len(known))
        self.dataset.done = frozenset(self.done)
        engine.done_cases = self.dataset.done
        write_atomically(self._list, lambda path: path.write_text(_joined(self.done), encoding="utf-8"))
        remove_others(self._list_of)
        ranks.wait()
        self._write(over=False)  # after the lists: old cases are never beside new settings
        if not engine.has_event_handler(self._add):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)  # now, so that it comes after the tables
            engine.add_event_handler(Events.COMPLETED, self._finish)

    def _add(self, engine: Engine) -> None:
        with self._list.open("a", encoding="utf-8") as file:
            file.write(_joined([item[CASE] for item in engine.state.batch]))

    def _finish(self, engine: Engine) -> None:
        if engine.failures:  # of any process, see `FailureReport`
            return
        self._write(over=True)
        self._list.unlink(missing_ok=True)

    @property
    def _list(self) -> Path:
        return self._list_of(ranks.index())

    def _list_of(self, index: int) -> Path:
        return self.file.with_name(f".done.{index}.jsonl")

    def _read(self) -> dict[str, Any]:
        return json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}

    def _lines(self) -> list[str]:
        """Return the cases done by any process; a last line that was not written whole does not count."""
        cases = []
        for file in files_of_all(self._list_of):
            whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
            cases += [json.loads(line) for line in whole.splitlines()]
        return cases

    def _write(self, *, over: bool) -> None:
        if not ranks.is_first():
            return
        text = json.dumps({"settings": self.settings, "over": over}, indent=4) + "\n"
        write_atomically(self.file, lambda path: path.write_text(text, encoding="utf-8"))


def _joined(cases: list[str]) -> str:
    return "".join(json.dumps(case) + "\n" for case in cases)
