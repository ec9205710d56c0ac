"""Map and score of 2-D images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from monai_anomaly.checks import check_range
from monai_anomaly.keys import ANOMALY_MAP, ANOMALY_SCORE
from monai_anomaly.transforms.anomaly_score import anomaly_score
from monai_anomaly.transforms.field_of_view_mask import field_of_view_mask
from monai_anomaly.transforms.resize_images import resize_images


class AnomalyMapInferer(Inferer):
    """Return a detector's anomaly map and one score per image, in a dictionary.

    Args:
        top_k: pixels of the map the score averages, at least 1 (ReSAD: 1, the maximum).
        network_score: take the score from the network's ``map_and_score`` instead.
        flips: take the mean over the image and its mirror images, up and down, left and right: four times the cost.
        field_of_view: 0 outside the eye of a fundus photograph, see `field_of_view_mask`; nothing where none is found.
        scales: take the mean over the image at these sizes, over its own; each adds its square to the cost.
        size_multiple: to which height and width of a resized image are rounded, as the network's pooling wants it.

    Shape:
        images (B, C, H, W); "anomaly_map" (B, 1, H, W), "anomaly_score" (B,).

    Raises:
        ValueError: top_k < 1, no scale or one that is not positive, or the network's score of a map that is changed.
    """

    def __init__(
        self,
        top_k: int = 1,
        network_score: bool = False,
        flips: bool = False,
        field_of_view: bool = False,
        scales: Sequence[float] = (1.0,),
        size_multiple: int = 16,
    ) -> None:
        check_range("top_k", top_k, 1)
        check_range("number of scales", len(scales), 1)
        for scale in scales:
            check_range("scale", scale, 0, 4, low_open=True)
        if network_score and (flips or field_of_view or tuple(scales) != (1.0,)):
            msg = "network_score goes with the map as it is; expected no flips, field_of_view or scales."
            raise ValueError(msg)
        self.scales, self.size_multiple = tuple(scales), size_multiple
        self.top_k = top_k
        self.network_score = network_score
        self.flips = flips
        self.field_of_view = field_of_view

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return map and score."""
        if self.network_score:
            anomaly_map, score = network.map_and_score(inputs, *args, **kwargs)  # type: ignore[attr-defined]
        else:
            anomaly_map = self._mean_map(inputs, lambda images: network(images, *args, **kwargs))
            if self.field_of_view:
                anomaly_map = torch.where(_eyes(inputs), anomaly_map, torch.zeros_like(anomaly_map))
            score = anomaly_score(anomaly_map, self.top_k)
        return {ANOMALY_MAP: anomaly_map, ANOMALY_SCORE: score}

    def _mean_map(self, inputs: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean map over sizes and mirror images."""
        own = tuple(inputs.shape[-2:])
        mirrors: list[tuple[int, ...]] = [(), (-1,), (-2,), (-2, -1)] if self.flips else [()]
        maps = []
        for scale in self.scales:
            step = self.size_multiple
            size = own if scale == 1 else tuple(max(1, round(scale * n / step)) * step for n in own)
            images = inputs if size == own else resize_images(inputs, size)
            for axes in mirrors:
                found = network(images.flip(axes)).flip(axes) if axes else network(images)
                maps.append(found if size == own else resize_images(found, own))
        return maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)


def _eyes(images: Tensor) -> Tensor:
    """Return where images show the eye, (B, 1, H, W), bool."""
    masks = torch.stack([field_of_view_mask(image.cpu(), margin_fraction=0) for image in images])
    masks |= ~masks.flatten(1).any(1)[:, None, None, None]
    return masks.to(images.device)
