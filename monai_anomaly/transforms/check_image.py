"""Refuse images no network should see: NaN, another number of channels, values beyond their stated range."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_range


def check_image(image: Tensor, num_channels: int | None = None, intensity_max: float | None = None) -> None:
    """Check one image.

    Args:
        image: (C, ...).
        num_channels: the expected C, None for any.
        intensity_max: the largest value the data type is meant to hold, None for any; 255 catches 16-bit data.

    Raises:
        ValueError: NaN or infinite values, another number of channels, values above ``intensity_max``, or nothing but
            one value.
    """
    plain = convert_to_tensor(image).float()
    num_bad = int((~torch.isfinite(plain)).sum())
    if num_bad:
        msg = f"{num_bad} of {plain.numel()} values are NaN or infinite; expected finite ones: mend or remove the file."
        raise ValueError(msg)
    if num_channels is not None and len(plain) != num_channels:
        msg = (
            f"The image has {len(plain)} channels, expected {num_channels}; "
            f"set in_channels to {len(plain)} in training and inference, or convert the image."
        )
        raise ValueError(msg)
    largest = float(plain.max()) if plain.numel() else 0.0
    if intensity_max is not None and largest > intensity_max:
        msg = (
            f"Values reach {largest:g}, expected at most {intensity_max:g}; "
            f"set intensity_max to the data's full scale (65535 for 16-bit), in training and inference alike."
        )
        raise ValueError(msg)
    if not plain.numel() or float(plain.min()) == largest:
        msg = f"All values are {largest:g}; expected an image: the file is empty or was not exported properly."
        raise ValueError(msg)


class CheckImage(Transform):
    """Return the image where it passes `check_image`, whose arguments and errors it shares."""

    def __init__(self, num_channels: int | None = None, intensity_max: float | None = None) -> None:
        if num_channels is not None:
            check_range("num_channels", num_channels, 1)
        self.num_channels = num_channels
        self.intensity_max = intensity_max

    def __call__(self, data: Tensor) -> Tensor:
        """Return ``data`` unchanged."""
        check_image(data, self.num_channels, self.intensity_max)
        return data


class CheckImaged(MapTransform):
    """Dictionary version of `CheckImage`."""

    def __init__(
        self,
        keys: KeysCollection,
        num_channels: int | None = None,
        intensity_max: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = CheckImage(num_channels, intensity_max)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data unchanged."""
        for key in self.key_iterator(dict(data)):
            self.transform(data[key])
        return dict(data)
