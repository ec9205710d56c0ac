"""Which files the cases of a run came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_anomaly.data.cases import CaseDataset
from monai_anomaly.handlers.growing_table import GrowingTable
from monai_anomaly.keys import CASE


class CaseFiles:
    """Write ``files.csv``: of each case its group, image and label; ``python -m monai_anomaly report`` starts from it.

    Several files of a case, such as a label for each kind of lesion, have a vertical bar between them.

    Args:
        output_dir: where the table goes.
        dataset: of the cases.
    """

    def __init__(self, output_dir: str | Path, dataset: CaseDataset) -> None:
        self.table = GrowingTable(Path(output_dir) / "files.csv")
        self.records = {record[CASE]: record for record in dataset.data}

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, lambda engine: self.table.start(getattr(engine, "done_cases", ())))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.table.finish)

    def __call__(self, engine: Engine) -> None:
        """Add the case just done."""
        for item in engine.state.batch:
            record = self.records[item[CASE]]
            files = {key: _joined(record.get(key)) for key in ("image", "label")}
            self.table.add([{"case": item[CASE], "group": record.get("group", ""), **files}])


def _joined(files: Any) -> str:
    listed = files if isinstance(files, (list, tuple)) else [files]
    return "|".join(str(Path(file).resolve()) for file in listed if file)
