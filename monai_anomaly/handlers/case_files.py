"""Which files the cases of a run came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from PIL import Image

from monai_anomaly.data.cases import CaseDataset
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.handlers.growing_table import GrowingTable
from monai_anomaly.keys import CASE
from monai_anomaly.transforms.class_numbers import IGNORED
from monai_anomaly.transforms.depth_first import oct_axes


class CaseFiles:
    """Write ``files.csv``: of each case its group, image, label and slice axis; `monai_anomaly.pages` starts from it.

    Several files of a case, such as a label for each kind of lesion, have a vertical bar between them. The labels of an
    evaluation are kept as it read them, in ``truth``: a data set's own files have values and colors of their own. Paths
    that are not absolute are below ``output_dir``.

    Args:
        output_dir: where the table goes.
        dataset: of the cases.
        slice_axis: of volumes, 0 to 2, or a function of the image that tells it.
        axes: of OCT instead: voxel axes along which rows, A-scans and B-scans follow one another.
        truth_key: of the labels in the batch, None where there are none.
        image_key: of the untouched image.
    """

    def __init__(
        self,
        output_dir: str | Path,
        dataset: CaseDataset,
        slice_axis: Any = 2,
        axes: Sequence[int] | None = None,
        truth_key: str | None = None,
        image_key: str = "raw",
    ) -> None:
        self.folder = Path(output_dir)
        self.table = GrowingTable(self.folder / "files.csv")
        self.records = {record[CASE]: record for record in dataset.data}
        self.slice_axis, self.axes = slice_axis, axes
        self.truth_key, self.image_key = truth_key, image_key

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, lambda engine: self.table.start(getattr(engine, "done_cases", ())))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.table.finish)

    def __call__(self, engine: Engine) -> None:
        """Add the case just done."""
        for item in engine.state.batch:
            record = self.records[item[CASE]]
            label = _joined(record.get("label"))
            if label and self.truth_key is not None:
                file = self._keep(item[CASE], item[self.truth_key], item[self.image_key])
                label = file.relative_to(self.folder).as_posix()
            files = {"image": _joined(record.get("image")), "label": label}
            row = {"case": item[CASE], "group": record.get("group", ""), **files, "slice_axis": self._axis(item)}
            self.table.add([row])

    def _axis(self, item: Any) -> int | str:
        image = item.get(self.image_key)
        if image is None or image.ndim != 4:
            return ""
        if self.axes is not None:
            return int(oct_axes(image, list(self.axes))[2])
        return int(self.slice_axis(image) if callable(self.slice_axis) else self.slice_axis)

    def _keep(self, case: str, truth: Any, image: Any) -> Path:
        array = convert_to_tensor(truth)[0].cpu().numpy()
        array = np.where(array == IGNORED, 0, array).astype(np.uint8)
        file = self.folder / "truth" / case
        if array.ndim == 2:
            file = file.with_name(f"{file.name}.png")
            return write_atomically(file, Image.fromarray(array).save)
        volume = nib.Nifti1Image(array, np.asarray(image.affine, dtype=float))
        return write_atomically(file.with_name(f"{file.name}.nii.gz"), lambda path: nib.save(volume, path))


def _joined(files: Any) -> str:
    listed = files if isinstance(files, (list, tuple)) else [files]
    return "|".join(str(Path(file).resolve()) for file in listed if file)
