"""Volumes of segmented structures, in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly.handlers.growing_table import GrowingTable
from monai_anomaly.keys import CASE, SEGMENTATION


def voxel_volume_mm3(volume: Any) -> float:
    """Return the volume of a voxel from an image's affine, in mm^3; NaN without one."""
    affine = getattr(volume, "affine", None)
    if affine is None:
        return float("nan")
    return float(torch.linalg.det(convert_to_tensor(affine).double()[:3, :3]).abs())


class VolumeTable:
    """Write ``volumes.csv``, a row per case with each class's volume in mm^3 and its number of voxels.

    Rows are written as cases are done.

    Args:
        output_dir: where the table goes.
        classes: labels by name.
        image_key: of the image whose spacing counts, in the batch.
    """

    def __init__(self, output_dir: str | Path, classes: Mapping[str, int], image_key: str = "raw") -> None:
        self.table = GrowingTable(Path(output_dir) / "volumes.csv")
        self.classes, self.image_key = dict(classes), image_key

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, lambda engine: self.table.start(getattr(engine, "done_cases", ())))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.table.finish)

    def __call__(self, engine: Engine) -> None:
        """Add the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            labels = convert_to_tensor(output[SEGMENTATION])
            voxel = voxel_volume_mm3(item[self.image_key])
            counts = {name: int((labels == value).sum()) for name, value in self.classes.items()}
            spacing_known = not math.isnan(voxel)
            volumes = {f"{name}_mm3": count * voxel if spacing_known else "" for name, count in counts.items()}
            voxels = {f"{name}_voxels": count for name, count in counts.items()}
            self.table.add([{"case": item[CASE], **volumes, **voxels}])
