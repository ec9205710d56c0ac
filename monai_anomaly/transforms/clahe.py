"""Contrast limited adaptive histogram equalization, with OpenCV's meaning of its two numbers.

Zuiderveld 1994, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_option, check_range

COLOR_MODES = ("lab", "each")


def clahe(
    image: Tensor,
    clip_limit: float = 2.0,
    tile_grid_size: Sequence[int] = (8, 8),
    color: str = "lab",
    value_range: Sequence[float] = (0.0, 1.0),
    slice_axis: int = 2,
) -> Tensor:
    """Return an image with its contrast equalized tile by tile.

    8-bit images come out bit-equal to ``cv2.createCLAHE``. Floats are quantized to 256 levels of ``value_range`` first:
    OpenCV's limit is on the counts of a level, so that with more levels than pixels in a tile it limits nothing. Other
    integers, of up to 16 bits, are equalized in 65,536 levels as OpenCV does, with that effect.

    Args:
        image: (C, H, W), or (C, I, J, K) which is equalized slice by slice.
        clip_limit: a level's highest count in a tile, over the mean count of the levels, but never below one pixel;
            more than 0 (ReSynthDetect: 2).
        tile_grid_size: tiles along the columns and along the rows, as OpenCV has it (ReSynthDetect: 8, 8).
        color: "lab": the luminance of three channels, red, green, blue, so that hues stay; "each": channel by channel.
            Other numbers of channels are always equalized channel by channel.
        value_range: lowest and highest value floats may have.
        slice_axis: of volumes, 0 to 2.

    Shape:
        output as the image, of its type, with its metadata.

    Raises:
        ValueError: numbers out of range, an unknown color mode, floats outside ``value_range``, or another shape.
    """
    check_range("clip_limit", clip_limit, 0, low_open=True)
    check_option("color", color, COLOR_MODES)
    for count in tile_grid_size:
        check_range("tile_grid_size", count, 1)
    plain = convert_to_tensor(image)
    if plain.ndim not in {3, 4}:
        msg = f"CLAHE expects (C, H, W) or (C, I, J, K), got {tuple(plain.shape)}; add the channel first."
        raise ValueError(msg)
    equalizer = cv2.createCLAHE(float(clip_limit), (int(tile_grid_size[0]), int(tile_grid_size[1])))
    levels = _quantize(plain, value_range)
    slices = levels[None] if plain.ndim == 3 else np.moveaxis(levels, slice_axis + 1, 0)
    done = np.stack([_equalize(np.ascontiguousarray(one), equalizer, color) for one in slices])
    result = done[0] if plain.ndim == 3 else np.moveaxis(done, 0, slice_axis + 1)
    return convert_to_dst_type(_restore(result, plain, value_range), image, dtype=plain.dtype)[0]


def _quantize(plain: Tensor, value_range: Sequence[float]) -> np.ndarray:
    array = plain.cpu().numpy()
    if array.dtype == np.uint8:
        return array
    low, high = (0.0, 65535.0) if not plain.is_floating_point() else value_range
    check_range("width of value_range", high - low, 0, low_open=True)
    if array.size and not (low <= array.min() and array.max() <= high):
        msg = (
            f"CLAHE expects values from {low:g} to {high:g}, got {float(array.min()):g} to {float(array.max()):g}; "
            f"scale the image, or set value_range."
        )
        raise ValueError(msg)
    if not plain.is_floating_point():
        return array.astype(np.uint16)
    return np.round((array.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _restore(levels: np.ndarray, plain: Tensor, value_range: Sequence[float]) -> Tensor:
    if not plain.is_floating_point():
        return torch.from_numpy(levels.astype(np.int64)).to(plain.dtype)
    low, high = value_range
    return torch.from_numpy(levels.astype(np.float64) * ((high - low) / 255) + low).to(plain.dtype)


def _equalize(levels: np.ndarray, equalizer: Any, color: str) -> np.ndarray:
    """Return (C, H, W) equalized."""
    if len(levels) != 3 or color == "each":
        return np.stack([equalizer.apply(channel) for channel in levels])
    picture = np.moveaxis(levels, 0, -1)
    if levels.dtype == np.uint8:
        lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
        lab[..., 0] = equalizer.apply(np.ascontiguousarray(lab[..., 0]))
        return np.moveaxis(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), -1, 0)
    lab = cv2.cvtColor(picture.astype(np.float32) / 65535, cv2.COLOR_RGB2LAB)  # L in 0 to 100
    luminance = np.round(lab[..., 0] * 655.35).clip(0, 65535).astype(np.uint16)
    lab[..., 0] = equalizer.apply(luminance).astype(np.float32) / 655.35
    back = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).clip(0, 1)
    return np.moveaxis(np.round(back * 65535).astype(np.uint16), -1, 0)


class CLAHE(Transform):
    """Array version of `clahe`, whose arguments and errors it shares."""

    def __init__(
        self,
        clip_limit: float = 2.0,
        tile_grid_size: Sequence[int] = (8, 8),
        color: str = "lab",
        value_range: Sequence[float] = (0.0, 1.0),
        slice_axis: int = 2,
    ) -> None:
        check_range("clip_limit", clip_limit, 0, low_open=True)
        self.clip_limit, self.tile_grid_size = clip_limit, tuple(tile_grid_size)
        self.color = check_option("color", color, COLOR_MODES)
        self.value_range, self.slice_axis = tuple(value_range), slice_axis

    def __call__(self, data: Tensor) -> Tensor:
        """Return the equalized image."""
        return clahe(data, self.clip_limit, self.tile_grid_size, self.color, self.value_range, self.slice_axis)


class CLAHEd(MapTransform):
    """Dictionary version of `CLAHE`."""

    def __init__(
        self,
        keys: KeysCollection,
        clip_limit: float = 2.0,
        tile_grid_size: Sequence[int] = (8, 8),
        color: str = "lab",
        value_range: Sequence[float] = (0.0, 1.0),
        slice_axis: int = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = CLAHE(clip_limit, tile_grid_size, color, value_range, slice_axis)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with equalized images."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(data[key])
        return result
