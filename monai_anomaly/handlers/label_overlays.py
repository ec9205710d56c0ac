"""A picture of every segmented volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly.evaluation.figures import save_label_figure
from monai_anomaly.keys import CASE, SEGMENTATION
from monai_anomaly.transforms.class_numbers import IGNORED
from monai_anomaly.transforms.depth_first import oct_axes


class LabelOverlays:
    """Write ``<case>_overlay.png`` per case: an image, or the B-scan with most lesion, under its labels.

    Args:
        output_dir: where the pictures go.
        class_names: of the lesions.
        axes: voxel axes along which rows, A-scans and B-scans follow one another.
        image_key: of the untouched image, in the batch.
        structures: names of the classes before the lesions.
        truth_key: of labels to show beside, in the batch, in the same classes; None for none.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        axes: Sequence[int] = (1, 0, 2),
        image_key: str = "raw",
        structures: Sequence[str] = ("retina",),
        truth_key: str | None = None,
    ) -> None:
        self.folder = Path(output_dir)
        self.names, self.first = [*structures, *class_names], len(structures) + 1
        self.axes, self.image_key, self.truth_key = list(axes), image_key, truth_key

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            axes = oct_axes(item[self.image_key], self.axes)
            image, labels = _planes(item[self.image_key], axes), _planes(output[SEGMENTATION], axes)
            truth = None if self.truth_key is None else _planes(item[self.truth_key], axes)
            if truth is not None:
                truth = np.where(truth == IGNORED, 0, truth)
            lesions = ((labels if truth is None else truth) >= self.first).sum((0, 1))
            index = int(lesions.argmax()) if lesions.any() else image.shape[2] // 2
            columns = {"image" if image.shape[2] == 1 else f"B-scan {index}": labels[..., index]}
            if truth is not None:
                columns = {"segmentation": labels[..., index], "labels": truth[..., index]}
            save_label_figure(self.folder / f"{item[CASE]}_overlay.png", image[..., index], columns, self.names)


def _planes(array: Any, axes: Sequence[int]) -> np.ndarray:
    """Return (rows, A-scans, B-scans) of the first channel."""
    plain = convert_to_tensor(array)[0].cpu().numpy()
    return plain[..., None] if plain.ndim == 2 else plain.transpose(axes)
