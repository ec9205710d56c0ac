"""A picture of every case: what the detector saw, and what it marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly.evaluation.figures import rows_run_up, save_overlay
from monai_anomaly.keys import ANOMALY_MAP, CASE


class MapOverlays:
    """Write ``<case>_overlay.png`` per case: input beside input with map; of a volume its most anomalous slice.

    Args:
        output_dir: where the pictures go.
        calibration: from a map to [0, 1], a fitted detector's ``calibration``.
        is_calibrated: the maps are in [0, 1] already.
        image_key: of the image on the map's grid, in the batch.
        slice_axis: of volumes, 0 to 2, or a function of the image that tells it.
    """

    def __init__(
        self,
        output_dir: str | Path,
        calibration: Any,
        is_calibrated: bool = False,
        image_key: str = "raw",
        slice_axis: Any = 2,
    ) -> None:
        self.folder = Path(output_dir)
        self.calibration = calibration
        self.is_calibrated = is_calibrated
        self.image_key = image_key
        self.slice_axis = slice_axis

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, anomaly_map = (
                convert_to_tensor(item[self.image_key]).cpu(),
                convert_to_tensor(output[ANOMALY_MAP]).cpu(),
            )
            axis = self.slice_axis(item[self.image_key]) if callable(self.slice_axis) else self.slice_axis
            if not self.is_calibrated:
                anomaly_map = self.calibration(anomaly_map.to(self.calibration.levels.device)).cpu()
            flip = rows_run_up(item[self.image_key].affine, axis)
            save_overlay(self.folder / f"{item[CASE]}_overlay.png", image, anomaly_map, axis, flip=flip)
