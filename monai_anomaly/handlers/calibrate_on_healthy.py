"""The scale of a detector's maps, learned from healthy images when its training is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from tqdm import tqdm

from monai_anomaly.metrics.score_distribution import ScoreDistribution

logger = logging.getLogger(__name__)


class CalibrateOnHealthy:
    """Store in a network's ``calibration`` what values its maps take on healthy images, when a run is over.

    Attach it before the handler that saves the network.

    Args:
        network: the detector.
        data_loader: batches of healthy images, "image" (B, C, H, W).
        mask_key: of the pixels that count, (B, 1, H, W), above 0; None for all.
    """

    def __init__(self, network: Any, data_loader: Iterable[Any], mask_key: str | None = None) -> None:
        self.network = network
        self.data_loader = data_loader
        self.mask_key = mask_key

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Calibrate."""
        values = ScoreDistribution(resolution=4096)
        self.network.eval()
        for batch in tqdm(self.data_loader, desc="calibrate", unit="image", disable=None):
            images = convert_to_tensor(batch["image"]).to(engine.state.device)
            with torch.no_grad():
                found = self.network(images).float().cpu()
            counted = found if self.mask_key is None else found[convert_to_tensor(batch[self.mask_key]) > 0]
            values.add(counted.numpy().ravel())
        self.network.calibration.fit_distribution(*values.entries())
        logger.info("calibrated on %d healthy pixels", int(values.total))
