"""Evaluation of a segmenter during a run: tables and figures at the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly import ranks
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.figures import save_label_figure
from monai_anomaly.evaluation.report import markdown_table, write_csv
from monai_anomaly.evaluation.segmentation import SegmentationEvaluation
from monai_anomaly.handlers.volume_table import voxel_volume_mm3
from monai_anomaly.keys import CASE, SEGMENTATION
from monai_anomaly.transforms.depth_first import oct_axes

logger = logging.getLogger(__name__)


class SegmentationReport:
    """Compare each volume's segmentation with its label and write ``report.md``, tables and figures at the end.

    ``slices.csv`` has a row for each B-scan and class that one of the two has, ``volumes.csv`` one for each volume and
    class, ``summary.csv`` one for each class.

    Args:
        output_dir: where the report goes.
        class_names: of the fluids, classes 2 and on.
        axes: voxel axes along which rows, A-scans and B-scans follow one another.
        method: what is evaluated, for the title.
        label_key: of the untouched labels, in the same classes.
        image_key: of the untouched image.
        num_figures: cases drawn at most, None for all.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        axes: Sequence[int] = (1, 0, 2),
        method: str = "segmentation",
        label_key: str = "truth",
        image_key: str = "raw",
        num_figures: int | None = None,
        seed: int = 0,
    ) -> None:
        self.folder = Path(output_dir)
        self.axes, self.method, self.seed = list(axes), method, seed
        self.label_key, self.image_key, self.num_figures = label_key, image_key, num_figures
        self.names = ["retina", *class_names]
        classes = {name: number for number, name in enumerate(class_names, 2)}
        self.evaluation = SegmentationEvaluation(classes)
        self.num_drawn = 0

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _add(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            predicted, true, image = (
                convert_to_tensor(array)[0].cpu().numpy()
                for array in (output[SEGMENTATION], item[self.label_key], item[self.image_key])
            )
            volume = voxel_volume_mm3(item[self.image_key])
            axes = oct_axes(item[self.image_key], self.axes)
            self.evaluation.add(item[CASE], predicted, true, axes[2], volume)
            if self.num_figures is None or self.num_drawn < ranks.part_of(self.num_figures):
                self._draw(item[CASE], *(array.transpose(axes) for array in (image, predicted, true)))
                self.num_drawn += 1

    def _draw(self, case: str, image: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> None:
        fluid = ((true > 1) | (predicted > 1)).sum((0, 1))
        index = int(fluid.argmax()) if fluid.any() else image.shape[2] // 2
        columns = {"labels": np.where(true > 1, true, 0)[..., index], "segmentation": predicted[..., index]}
        save_label_figure(self.folder / "cases" / f"{case}.png", image[..., index], columns, self.names)

    def _finish(self, engine: Engine) -> None:
        evaluation, failures = ranks.merged(self.evaluation), ranks.joined(getattr(engine, "failures", []))
        if not evaluation.volumes or not ranks.is_first():
            return
        rows = evaluation.summary(self.seed)
        write_csv(self.folder / "summary.csv", rows)
        write_csv(self.folder / "volumes.csv", evaluation.volumes)
        if evaluation.slices:
            write_csv(self.folder / "slices.csv", evaluation.slices)
        num_cases = len({row["case"] for row in evaluation.volumes})
        lines = [f"# {self.method}", "", f"{num_cases} volumes, {evaluation.num_slices} B-scans."]
        lines += [f"{len(failures)} cases failed and are not in these figures; see failures.csv."] if failures else []
        lines += ["", *markdown_table(rows), ""]
        lines += [
            "Dice: mean over the B-scans that have the class, with its spread and an interval drawn by volume. "
            "Detection rate: lesions of a B-scan (8 neighbors) that the segmentation touches with one pixel of the "
            "class. False positives: lesions that touch no true one, over all B-scans.",
            "",
        ]
        path = self.folder / "report.md"
        write_atomically(path, lambda part: part.write_text("\n".join(lines), encoding="utf-8"))
        logger.info("report: %s", path)
