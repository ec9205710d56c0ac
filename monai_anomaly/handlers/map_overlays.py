"""A picture of every case: what the detector saw, and what it marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_anomaly.evaluation.figures import save_overlay
from monai_anomaly.keys import ANOMALY_MAP, CASE


class MapOverlays:
    """Write ``<case>_overlay.png`` per case: input beside input with map; of a volume its most anomalous slice.

    Args:
        output_dir: where the pictures go.
        calibration: from a map to [0, 1], a fitted detector's ``calibration``.
        image_key: of the image on the map's grid, in the batch.
        slice_axis: of volumes, 0 to 2, or a function of the image that tells it.
    """

    def __init__(self, output_dir: str | Path, calibration: Any, image_key: str = "raw", slice_axis: Any = 2) -> None:
        self.folder = Path(output_dir)
        self.calibration = calibration
        self.image_key = image_key
        self.slice_axis = slice_axis

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, anomaly_map = torch.as_tensor(item[self.image_key]).cpu(), torch.as_tensor(output[ANOMALY_MAP]).cpu()
            axis = self.slice_axis(item[self.image_key]) if callable(self.slice_axis) else self.slice_axis
            with torch.no_grad():
                calibrated = self.calibration(anomaly_map.to(self.calibration.levels.device)).cpu()
            save_overlay(self.folder / f"{item[CASE]}_overlay.png", image, calibrated, axis)
