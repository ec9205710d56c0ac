"""A training followed in TensorBoard or MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.handlers import MLFlowHandler, TensorBoardStatsHandler

from monai_anomaly import ranks
from monai_anomaly.checks import check_option

_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


class Tracking:
    """MONAI's `TensorBoardStatsHandler` or `MLFlowHandler`, told every loss of every step.

    A resumed training goes on in the same curves. Of several processes the first one tells.

    Args:
        kind: "tensorboard", "mlflow", or None for neither.
        folder: gets "tensorboard", or MLflow's "mlflow.db"; MLFLOW_TRACKING_URI comes first.
        name: of the training.

    Raises:
        ImportError: the package is not installed.
        ValueError: an unknown kind.
    """

    def __init__(self, kind: str | None, folder: str | Path, name: str = "training") -> None:
        self.kind = check_option("tracking", kind, (None, *_PACKAGES))
        if kind is not None and find_spec(_PACKAGES[kind]) is None:
            msg = f"tracking {kind} needs a package; install it: pip install {_PACKAGES[kind]}"
            raise ImportError(msg)
        self.folder, self.name = Path(folder).resolve(), name

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        if self.kind is None or not ranks.is_first():
            return
        handler: Any
        if self.kind == "tensorboard":
            place = str(self.folder / "tensorboard" / self.name)
            handler = TensorBoardStatsHandler(log_dir=place, epoch_log=False, output_transform=losses_of)
        else:
            import mlflow

            self.folder.mkdir(parents=True, exist_ok=True)
            place = f"sqlite:///{self.folder / 'mlflow.db'}"
            uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else place
            handler = MLFlowHandler(
                tracking_uri=uri,
                epoch_log=False,
                output_transform=losses_of,
                experiment_name="monai_anomaly",
                run_name=self.name,
                close_on_complete=True,
            )
        handler.attach(engine)


def losses_of(output: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a single number in a trainer's output: its losses."""
    numbers = {}
    for name, value in output.items():
        if isinstance(value, float) or (isinstance(value, torch.Tensor) and value.ndim == 0):
            numbers[str(getattr(name, "value", name))] = float(torch.as_tensor(value).detach())
    return numbers
