"""The threshold of pseudo labels, chosen by how well they overlap with the labels of validation images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly import ranks
from monai_anomaly.checks import check_range
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.figures import save_sweep
from monai_anomaly.evaluation.report import markdown_table, write_csv
from monai_anomaly.keys import LESION_MAPS
from monai_anomaly.metrics.overlap_table import OverlapTable, confusion_by_threshold
from monai_anomaly.transforms.class_numbers import present_classes
from monai_anomaly.transforms.pseudo_label import gate_maps

logger = logging.getLogger(__name__)

_NOTHING = (
    "No validation image has a labeled lesion: nothing to choose a threshold by; give labeled ones "
    "(--validation_section, --fold), or pass a threshold (--threshold 0.7)."
)


class ThresholdSweep:
    """Judge pseudo labels at thresholds from 0 to 1, choose the one with the best mean IoU, and write tables.

    Twice: with the maps of lesions that an image's labels do not have set to 0, the paper's protocol, and without.
    ``sweep.csv`` has a row per threshold, ``overlap.csv`` one per class at the best threshold of either way.

    Args:
        output_dir: where tables, ``sweep.png`` and ``report.md`` go.
        class_names: of the lesions.
        threshold: to use in any case; None to choose.
        step: between thresholds (paper: 0.01, in ablations 0.1).
        gated: choose by the gated maps.
        lesioned_only: judge images with a lesion alone, as the published code does.
        slice_axis: voxel axis that B-scans of a volume follow one another along.
        label_key: of the untouched labels, numbers of classes.
        timed: whose ``seconds_per_image`` is noted, see `LesionMapInferer`.

    Raises:
        ValueError: a threshold or step out of range; in the end of a run, no image to choose by.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        threshold: float | None = None,
        step: float = 0.01,
        gated: bool = True,
        lesioned_only: bool = True,
        slice_axis: int = 2,
        label_key: str = "truth",
        timed: Any = None,
    ) -> None:
        check_range("step", step, 0.001, 1)
        if threshold is not None:
            check_range("threshold", threshold, 0, 1)
        self.folder, self.names = Path(output_dir), list(class_names)
        self.chosen = threshold
        thresholds = np.round(np.arange(0, 1 + step / 2, step), 6)
        self.tables = {name: OverlapTable(class_names, thresholds) for name in ("gated", "not gated")}
        self.first = "gated" if gated else "not gated"
        self.lesioned_only, self.slice_axis, self.label_key = lesioned_only, slice_axis, label_key
        self.fixed, self.timed = threshold is not None, timed
        self.failures: list[tuple[str, str]] = []
        self.num_cases = 0

    def __len__(self) -> int:
        return self.num_cases

    def threshold(self) -> float:
        """Return the threshold.

        Raises:
            RuntimeError: it is not chosen yet.
        """
        if self.chosen is None:
            msg = "The threshold is not chosen yet; run the validation first, or pass one (--threshold 0.7)."
            raise RuntimeError(msg)
        return self.chosen

    def check_cases(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Check before a run that there are labels to choose a threshold by, where none is given.

        Raises:
            ValueError: no record has a label file.
        """
        if not self.fixed and not any(record.get("label") for record in records):
            raise ValueError(_NOTHING)

    def raise_failures(self) -> None:
        """End a run that validates alone with an error, where cases failed.

        Raises:
            RuntimeError: some did.
        """
        if self.failures:
            case, reason = self.failures[0]
            msg = f"{len(self.failures)} validation cases failed, the others are in {self.folder}: {case}: {reason}"
            raise RuntimeError(msg)

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Engine) -> None:
        """Add the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.num_cases += 1
            for maps, true in self._images(convert_to_tensor(output[LESION_MAPS]), item[self.label_key]):
                present = present_classes(torch.from_numpy(true)[None], len(self.names))
                if bool(present.isnan().any()) or (self.lesioned_only and not present.any()):
                    continue
                for name, table in self.tables.items():
                    used = gate_maps(torch.from_numpy(maps), present).numpy() if name == "gated" else maps
                    table.add(confusion_by_threshold(used, true, table.thresholds))

    def _images(self, maps: Any, truth: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield maps (K, H, W) and labels (H, W) of the image, or of each slice that has labels."""
        found, true = maps.cpu().numpy(), convert_to_tensor(truth)[0].cpu().numpy()
        if true.ndim == 2:
            yield found, true
            return
        for index in range(true.shape[self.slice_axis]):
            yield found.take(index, self.slice_axis + 1), true.take(index, self.slice_axis)

    def _finish(self, engine: Engine) -> None:
        self.failures = ranks.joined(getattr(engine, "failures", []))
        self.tables = {name: ranks.merged(table) for name, table in self.tables.items()}
        self.num_cases = sum(ranks.gathered(self.num_cases))
        first = self.tables[self.first]
        if not first.num_images or not (self.fixed or first.confusion[:, 1:].any()):  # no pixel of a lesion
            raise ValueError(_NOTHING)
        if not self.fixed:
            self.chosen = float(first.thresholds[first.best()])
        logger.info("threshold %.2f, of %d images", self.threshold(), first.num_images)
        if not ranks.is_first():
            return
        write_csv(self.folder / "sweep.csv", self._sweep_rows())
        write_csv(self.folder / "overlap.csv", self.rows())
        iou = first.iou()
        lines = {"mean": np.nanmean(iou, 1)} | {name: iou[:, n] for n, name in enumerate(first.names) if n}
        save_sweep(self.folder / "sweep.png", first.thresholds, lines, self.threshold())
        text = [
            "# Pseudo labels",
            "",
            f"{first.num_images} images{' with a lesion' if self.lesioned_only else ''}; threshold "
            f"{self.threshold():.2f}, {'given' if self.fixed else f'the best for maps {self.first}'}.",
            *([f"{len(self.failures)} cases failed and are not in these figures."] if self.failures else []),
            "",
            *markdown_table(self.rows()),
            "",
            "iou: of all pixels; dice: mean over images; under: missed pixels per found one; over: wrong ones per "
            "found one. Gated: an image's labels tell which lesions are there. Each way is at its own best threshold.",
            "",
            "![sweep](sweep.png)",
            "",
        ]
        write_atomically(self.folder / "report.md", lambda path: path.write_text("\n".join(text), encoding="utf-8"))

    def rows(self) -> list[dict[str, Any]]:
        """Return the overlaps at the best threshold, or the given one, of either way."""
        rows = []
        seconds = {"seconds_per_image": getattr(self.timed, "seconds_per_image", float("nan"))}
        for name, table in self.tables.items():
            index = table.best()
            if self.fixed:
                index = int(np.abs(table.thresholds - self.threshold()).argmin())
            rows += [
                {"maps": name, "threshold": table.thresholds[index], **row, **seconds} for row in table.rows(index)
            ]
        return rows

    def _sweep_rows(self) -> list[dict[str, Any]]:
        rows = []
        for name, table in self.tables.items():
            iou, dice = table.iou(), table.dice()
            for index, threshold in enumerate(table.thresholds):
                means = {"mean_iou": float(np.nanmean(iou[index])), "mean_dice": float(np.nanmean(dice[index]))}
                by_class = {f"{label}_iou": float(iou[index, n]) for n, label in enumerate(table.names)}
                rows.append({"maps": name, "threshold": threshold, **means, **by_class})
        return rows
