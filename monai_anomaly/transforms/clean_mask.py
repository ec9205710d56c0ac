"""Take noise out of a lesion mask: opening and closing slice by slice, or a second image that must agree."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.transforms.utils_morphological_ops import dilate, erode
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_range, check_same_grid

SliceAxis = int | Callable[[Tensor], int]


def open_mask(mask: Tensor, size: int = 5, *, close: bool = False, slice_axis: SliceAxis = 2) -> Tensor:
    """Return the mask after erosion and dilation with a square, which removes whatever is narrower than it.

    Dey et al. 2022, section 4.2, with 5 x 5 (MS-SEG, LiTS) and 9 x 9 (BraTS).

    Args:
        mask: (1, H, W), or (1, I, J, K) which is opened slice by slice; above 0 is inside.
        size: side of the square in pixels, odd, at least 1.
        close: dilate and erode afterwards, which closes gaps (the paper's footnote says "open-and-closed").
        slice_axis: of a volume, 0 to 2, or a function of the mask that tells it.

    Shape:
        output as the mask, uint8 in {0, 1}.

    Raises:
        ValueError: an even or non-positive size.
    """
    check_range("size", size, 1)
    if size % 2 == 0:
        msg = f"size must be odd, got {size}; take {size - 1} or {size + 1}."
        raise ValueError(msg)
    plain = (convert_to_tensor(mask) > 0).float()
    axis = (slice_axis(mask) if callable(slice_axis) else slice_axis) + 1
    slices = plain[None] if plain.ndim == 3 else plain.movedim(axis, 0)  # (S, 1, H, W)
    steps = (erode, dilate, dilate, erode) if close else (erode, dilate)
    marked = slices.flatten(1).any(1)
    some = slices[marked]
    for step in steps:
        some = convert_to_tensor(step(some, size)) if len(some) else some
    slices = slices.clone()
    slices[marked] = some
    result = slices[0] if plain.ndim == 3 else slices.movedim(0, axis)
    return convert_to_dst_type(result.to(torch.uint8), mask, dtype=torch.uint8)[0]


def confirm_mask(mask: Tensor, image: Tensor, threshold: float = 50 / 255) -> Tensor:
    """Return what of the mask a second image confirms: mask times image, thresholded again.

    Dey et al. 2022, section 4.2: T2 masks times the FLAIR image at 50 of 255 drop cerebrospinal fluid and eyeballs,
    bright on T2 and dark on FLAIR.

    Args:
        mask: (1, ...), above 0 is inside.
        image: (1, ...) on the same grid, in [0, 1].
        threshold: in [0, 1].

    Raises:
        ValueError: different grids, or a threshold outside [0, 1].
    """
    check_range("threshold", threshold, 0, 1)
    check_same_grid("The confirming image", mask, image, expected="the mask")
    inside = (convert_to_tensor(mask) > 0) & (convert_to_tensor(image) >= threshold)
    return convert_to_dst_type(inside.to(torch.uint8), mask, dtype=torch.uint8)[0]


class OpenMask(Transform):
    """Array version of `open_mask`, whose arguments and errors it shares."""

    def __init__(self, size: int = 5, close: bool = False, slice_axis: SliceAxis = 2) -> None:
        self.size, self.close, self.slice_axis = size, close, slice_axis

    def __call__(self, data: Tensor) -> Tensor:
        """Return the opened mask."""
        return open_mask(data, self.size, close=self.close, slice_axis=self.slice_axis)


class OpenMaskd(MapTransform):
    """Dictionary version of `OpenMask`."""

    def __init__(
        self,
        keys: KeysCollection,
        size: int = 5,
        close: bool = False,
        slice_axis: SliceAxis = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = OpenMask(size, close, slice_axis)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with opened masks."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(data[key])
        return result


class ConfirmMask(Transform):
    """Array version of `confirm_mask`, whose arguments and errors it shares."""

    def __init__(self, threshold: float = 50 / 255) -> None:
        check_range("threshold", threshold, 0, 1)
        self.threshold = threshold

    def __call__(self, data: Tensor, image: Tensor) -> Tensor:
        """Return the confirmed mask."""
        return confirm_mask(data, image, self.threshold)


class ConfirmMaskd(MapTransform):
    """Dictionary version of `ConfirmMask`: ``ConfirmMaskd(keys="mask", image_key="flair")``."""

    def __init__(
        self, keys: KeysCollection, image_key: str, threshold: float = 50 / 255, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.transform = ConfirmMask(threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with confirmed masks."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(data[key], data[self.image_key])
        return result
