"""Smoothing that keeps edges."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor
from torch.nn import functional as F

from monai_anomaly.checks import check_range


def guided_filter(image: Tensor, radius: int = 1, eps: float = 0.04) -> Tensor:
    """Return the image filtered with itself as the guide: flat where its variance is small against ``eps``.

    He et al. 2013, "Guided image filtering": a = var / (var + eps), b = (1 - a) mean, in boxes; then their means.

    Args:
        image: (C, H, W), each channel by itself, or (C, H, W, D), each slice by itself.
        radius: of the boxes, in pixels, at least 1.
        eps: in the square of the image's units; 0.04 belongs to images in [0, 1].

    Shape:
        output as the image, float32.

    Raises:
        ValueError: radius or eps out of range.
    """
    check_range("radius", radius, 1)
    check_range("eps", eps, 0, low_open=True)
    plain = convert_to_tensor(image).float()
    if plain.ndim == 4:
        return torch.stack([guided_filter(one, radius, eps) for one in plain.unbind(-1)], -1)
    plain = plain[None]

    def box(x: Tensor) -> Tensor:  # only pixels inside the image count
        return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

    mean = box(plain)
    variance = (box(plain.square()) - mean.square()).clamp(min=0)
    a = variance / (variance + eps)
    return torch.as_tensor(box(a) * plain + box((1 - a) * mean))[0]


class GuidedFilter(Transform):
    """Array version of `guided_filter`, whose arguments and errors it shares."""

    def __init__(self, radius: int = 1, eps: float = 0.04) -> None:
        check_range("radius", radius, 1)
        check_range("eps", eps, 0, low_open=True)
        self.radius, self.eps = radius, eps

    def __call__(self, data: Tensor) -> Tensor:
        """Return the filtered image."""
        return convert_to_dst_type(guided_filter(data, self.radius, self.eps), data, dtype=torch.float32)[0]


class GuidedFilterd(MapTransform):
    """Dictionary version of `GuidedFilter`."""

    def __init__(
        self, keys: KeysCollection, radius: int = 1, eps: float = 0.04, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = GuidedFilter(radius, eps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data filtered."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result
