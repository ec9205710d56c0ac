"""Evaluation of label images: intersection over union of all pixels, Dice image by image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly import ranks
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.report import markdown_table, write_csv
from monai_anomaly.keys import SEGMENTATION
from monai_anomaly.metrics.overlap_table import OverlapTable, confusion
from monai_anomaly.transforms.class_numbers import IGNORED

logger = logging.getLogger(__name__)


class OverlapReport:
    """Compare segmentations with untouched labels and write ``overlap.csv`` and ``report.md`` at the end.

    Args:
        output_dir: where they go.
        class_names: of the lesions, classes 1 and on.
        method: what is evaluated, for the title.
        slice_axis: voxel axis that B-scans of a volume follow one another along.
        label_key: of the labels, numbers of classes.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        method: str = "segmentation",
        slice_axis: int = 2,
        label_key: str = "truth",
    ) -> None:
        self.folder, self.method = Path(output_dir), method
        self.slice_axis, self.label_key = slice_axis, label_key
        self.table = OverlapTable(class_names)

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Engine) -> None:
        """Add the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            found, true = (
                convert_to_tensor(array)[0].cpu().numpy() for array in (output[SEGMENTATION], item[self.label_key])
            )
            planes = range(true.shape[self.slice_axis]) if true.ndim == 3 else [None]
            for index in planes:
                ours, theirs = (a if index is None else a.take(index, self.slice_axis) for a in (found, true))
                if (theirs == IGNORED).all():
                    continue
                self.table.add(confusion(ours, theirs, len(self.table.names) - 1))

    def _finish(self, engine: Engine) -> None:
        table, failures = ranks.merged(self.table), ranks.joined(getattr(engine, "failures", []))
        if not table.num_images or not ranks.is_first():
            return
        rows = table.rows()
        write_csv(self.folder / "overlap.csv", rows)
        text = [
            f"# {self.method}",
            "",
            f"{table.num_images} images.",
            *([f"{len(failures)} cases failed and are not in these figures; see failures.csv."] if failures else []),
            "",
            *markdown_table(rows),
            "",
            "iou: of all pixels; dice: mean over images that have the class; under: missed pixels per found one; over: "
            "wrong ones per found one.",
            "",
        ]
        path = self.folder / "report.md"
        write_atomically(path, lambda part: part.write_text("\n".join(text), encoding="utf-8"))
        logger.info("report: %s", path)
