"""A picture of every case's lesion maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly import ranks
from monai_anomaly.evaluation.figures import save_lesion_maps
from monai_anomaly.keys import CASE, LESION_MAPS, PROBABILITIES
from monai_anomaly.transforms.class_numbers import IGNORED
from monai_anomaly.transforms.depth_first import oct_axes


class LesionMapFigures:
    """Write ``<case>_maps.png``: the B-scan, each kind of lesion's map with its probability, labels and truth.

    Of a volume, the B-scan with the largest truth, else the one most probable to have a lesion.

    Args:
        output_dir: where the pictures go.
        class_names: of the lesions.
        axes: of volumes, voxel axes along which rows, A-scans and B-scans follow one another.
        num_figures: cases drawn at most, None for all.
        label_keys: of label images by their titles, in the output or the batch, as far as they are there.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        axes: Sequence[int] = (1, 0, 2),
        num_figures: int | None = None,
        label_keys: Sequence[str] = ("pseudo_label", "truth"),
    ) -> None:
        self.folder, self.names, self.axes = Path(output_dir), list(class_names), list(axes)
        self.num_figures, self.label_keys, self.num_drawn = num_figures, tuple(label_keys), 0

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            if self.num_figures is None or self.num_drawn < ranks.part_of(self.num_figures):
                self._draw({**item, **output})
                self.num_drawn += 1

    def _draw(self, data: dict[str, Any]) -> None:
        axes = oct_axes(data["raw"], self.axes)
        said = convert_to_tensor(data[PROBABILITIES])[: len(self.names)].cpu().numpy()
        labels = {key: _planes(data[key], axes)[0] for key in self.label_keys if key in data}
        index = 0
        if said.ndim == 2:
            truth = labels.get("truth")
            marked = None if truth is None else ((truth > 0) & (truth != IGNORED)).sum((0, 1))
            index = int(marked.argmax()) if marked is not None and marked.any() else int(said.max(0).argmax())
            said = said[:, index]
        titles = [f"{name}, p {p:.2f}" for name, p in zip(self.names, said.tolist(), strict=True)]
        maps = _planes(data[LESION_MAPS], axes)
        save_lesion_maps(
            self.folder / f"{data[CASE]}_maps.png",
            _planes(data["raw"], axes).mean(0)[..., index],
            {title: one[..., index] for title, one in zip(titles, maps, strict=True)},
            {key.replace("_", " "): one[..., index] for key, one in labels.items()},
        )


def _planes(array: Any, axes: Sequence[int]) -> np.ndarray:
    """Return (C, rows, A-scans, B-scans)."""
    plain = convert_to_tensor(array).cpu().numpy()
    return plain[..., None] if plain.ndim == 3 else plain.transpose(0, *(axis + 1 for axis in axes))
