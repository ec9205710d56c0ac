"""A picture of every segmented volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly.evaluation.figures import save_label_figure
from monai_anomaly.keys import CASE, SEGMENTATION


class LabelOverlays:
    """Write ``<case>_overlay.png`` per case: the B-scan with most fluid beside itself under its labels.

    Args:
        output_dir: where the pictures go.
        class_names: of the fluids, classes 2 and on.
        axes: voxel axes along which rows, A-scans and B-scans follow one another.
        image_key: of the untouched image, in the batch.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        axes: Sequence[int] = (1, 0, 2),
        image_key: str = "raw",
    ) -> None:
        self.folder = Path(output_dir)
        self.names = ["retina", *class_names]
        self.axes, self.image_key = list(axes), image_key

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the case just done."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, labels = (
                convert_to_tensor(array)[0].cpu().numpy().transpose(self.axes)
                for array in (item[self.image_key], output[SEGMENTATION])
            )
            fluid = (labels > 1).sum((0, 1))
            index = int(fluid.argmax()) if fluid.any() else image.shape[2] // 2
            columns = {f"B-scan {index}": labels[..., index]}
            save_label_figure(self.folder / f"{item[CASE]}_overlay.png", image[..., index], columns, self.names)
