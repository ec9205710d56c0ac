"""Healthy images that a detector compares others with."""

from __future__ import annotations

import random
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly.checks import check_range


class KeepReferences:
    """Store healthy images in a network when a run is over, by its ``set_references``.

    Attach it before what calibrates and saves the network.

    Args:
        network: the detector.
        images: data set of healthy ones, "image" (C, H, W), all of one size.
        count: how many, at least 1; all where there are fewer.
        seed: of the draw.
    """

    def __init__(self, network: Any, images: Any, count: int, seed: int = 0) -> None:
        check_range("number of references", count, 1)
        self.network, self.images, self.count, self.seed = network, images, count, seed

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Store them."""
        del engine
        total = len(self.images)
        chosen = random.Random(self.seed).sample(range(total), min(self.count, total))  # noqa: S311 - a draw
        stack = torch.stack([convert_to_tensor(self.images[index]["image"]) for index in sorted(chosen)])
        self.network.set_references(stack)
