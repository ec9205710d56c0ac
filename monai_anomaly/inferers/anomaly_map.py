"""Map and score of 2-D images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from monai_anomaly.checks import check_range
from monai_anomaly.keys import ANOMALY_MAP, ANOMALY_SCORE
from monai_anomaly.transforms.anomaly_score import anomaly_score
from monai_anomaly.transforms.field_of_view_mask import field_of_view_mask


class AnomalyMapInferer(Inferer):
    """Return a detector's anomaly map and one score per image, in a dictionary.

    Args:
        top_k: pixels of the map the score averages, at least 1 (ReSAD: 1, the maximum).
        network_score: take the score from the network's ``map_and_score`` instead.
        flips: take the mean over the image and its mirror images, up and down, left and right: four times the cost.
        field_of_view: 0 outside the eye of a fundus photograph, see `field_of_view_mask`; nothing where none is found.

    Shape:
        images (B, C, H, W); "anomaly_map" (B, 1, H, W), "anomaly_score" (B,).

    Raises:
        ValueError: top_k < 1, or the network's score of a map that is changed.
    """

    def __init__(
        self, top_k: int = 1, network_score: bool = False, flips: bool = False, field_of_view: bool = False
    ) -> None:
        check_range("top_k", top_k, 1)
        if network_score and (flips or field_of_view):
            msg = "network_score goes with the map as it is; expected flips and field_of_view to be False."
            raise ValueError(msg)
        self.top_k = top_k
        self.network_score = network_score
        self.flips = flips
        self.field_of_view = field_of_view

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return map and score."""
        if self.network_score:
            anomaly_map, score = network.map_and_score(inputs, *args, **kwargs)  # type: ignore[attr-defined]
        else:
            anomaly_map = network(inputs, *args, **kwargs)
            if self.flips:
                for axes in ((-1,), (-2,), (-2, -1)):
                    anomaly_map = anomaly_map + network(inputs.flip(axes), *args, **kwargs).flip(axes)
                anomaly_map = anomaly_map / 4
            if self.field_of_view:
                anomaly_map = torch.where(_eyes(inputs), anomaly_map, torch.zeros_like(anomaly_map))
            score = anomaly_score(anomaly_map, self.top_k)
        return {ANOMALY_MAP: anomaly_map, ANOMALY_SCORE: score}


def _eyes(images: Tensor) -> Tensor:
    """Return where images show the eye, (B, 1, H, W), bool."""
    masks = torch.stack([field_of_view_mask(image.cpu(), margin_fraction=0) for image in images])
    masks |= ~masks.flatten(1).any(1)[:, None, None, None]
    return masks.to(images.device)
