"""OCT flattened to Bruch's membrane, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_dst_type, convert_to_tensor, ensure_tuple_rep
from torch import Tensor

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.keys import LAYERS
from monai_anomaly.transforms.bruchs_membrane import estimate_bruchs_membrane
from monai_anomaly.transforms.fill_mask import fill_of_scans
from monai_anomaly.transforms.known_membrane import known_membrane, without_gaps

_MODES = ("nearest", "bilinear")
_BLOCK = (32, 8192)  # rows and A-scans moved at once; more rows of fewer A-scans
_NARROW = 16  # planes of fewer A-scans are not worth a call
_MOST_ROWS = 2**14 - 64  # OpenCV's places have 16 bits
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.float32, 8: torch.float64}
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # what torch can gather


def shift_a_scans(image: Tensor, shifts: Tensor, depth_axis: int = 0) -> Tensor:
    """Return the image with each A-scan moved deeper by its shift; what comes in is 0.

    Args:
        image: (C, rows, A-scans, ...).
        shifts: in rows, (A-scans, ...); whole numbers, or floats for linear interpolation between rows.
        depth_axis: spatial axis along which A-scans run.

    Shape:
        output as the image, of its type; floats where shifts are fractions.

    Raises:
        TypeError: a complex image.
        ValueError: shifts of another shape than the A-scans.
    """
    if image.is_complex():
        msg = f"Images are real, got {image.dtype}; pass its magnitude (abs)."
        raise TypeError(msg)
    scans, shifts = image.movedim(depth_axis + 1, 1), shifts.to(image.device)
    if shifts.shape != scans.shape[2:]:
        msg = f"Shifts are {tuple(shifts.shape)}, the image's A-scans {tuple(scans.shape[2:])}; give one for each."
        raise ValueError(msg)
    whole = torch.floor(shifts)
    part = (shifts - whole).to(torch.float32)
    if not bool(part.any()):
        return _moved(scans, whole).movedim(1, depth_axis + 1)
    both = _moved(scans, whole, first=-1).float()  # moved by one row more is the row above
    plain = both.device.type == "cpu" and not both.requires_grad and not part.requires_grad
    result = _empty(tuple(scans.shape), both) if plain else None
    return torch.lerp(both[:, 1:], both[:, :-1], part, out=result).movedim(1, depth_axis + 1)


def _moved(scans: Tensor, shifts: Tensor, first: int = 0) -> Tensor:
    """Return (C, rows - first, ...) moved by whole rows, from a row on that may lie above the image."""
    if scans.dtype in _SIGNED:
        return _moved(scans.view(_SIGNED[scans.dtype]), shifts, first).view(scans.dtype)
    channels, depth = scans.shape[:2]
    offsets = shifts.detach().long().clamp(first - depth, depth - first)
    if scans.device.type == "cpu" and depth <= _MOST_ROWS and not scans.requires_grad:
        return _moved_in_blocks(scans, offsets.numpy().astype(np.int16), first)
    source = torch.arange(first, depth, device=scans.device)[:, None] - offsets.reshape(-1)
    outside = (source < 0) | (source >= depth)
    places = source.clamp_(0, depth - 1).expand(channels, -1, -1)
    result = scans.reshape(channels, depth, -1).gather(1, places).masked_fill_(outside, 0)
    return result.reshape(channels, depth - first, *scans.shape[2:])


def _moved_in_blocks(scans: Tensor, offsets: np.ndarray, first: int) -> Tensor:
    """Return the same by OpenCV, plane by plane as they lie in memory, and block by block.

    What is read then stays in the cache. A plane has rows and the axes that run faster than they do in memory, if these
    have A-scans enough; else all of them.
    """
    plain = scans.detach().view(_BITS[scans.element_size()])  # the values do not matter, only where they go
    strides = plain.stride()
    axes = sorted(range(2, plain.ndim), key=lambda axis: -strides[axis])
    inner = [axis for axis in axes if strides[axis] < strides[1]]
    if np.prod([plain.shape[axis] for axis in inner], initial=1) < _NARROW:
        inner = list(range(2, plain.ndim))
    outer = [axis for axis in axes if axis not in inner]
    order = [0, *outer, 1, *inner]
    moved = [offsets.shape[axis - 2] for axis in outer], [offsets.shape[axis - 2] for axis in inner]
    shifts = offsets.transpose([axis - 2 for axis in (*outer, *inner)]).reshape(int(np.prod(moved[0], initial=1)), -1)
    sources = plain.permute(order).numpy().reshape(-1, plain.shape[1], shifts.shape[1])
    targets = np.empty((len(sources), plain.shape[1] - first, shifts.shape[1]), sources.dtype)  # in large pages
    _move_planes(sources, targets, shifts, first)
    result = targets.reshape(plain.shape[0], *moved[0], -1, *moved[1])
    return torch.from_numpy(result).permute(*np.argsort(order).tolist()).view(scans.dtype)


def _move_planes(sources: np.ndarray, targets: np.ndarray, offsets: np.ndarray, first: int) -> None:
    """Fill planes (N, rows - first, A-scans) from others (N, rows, A-scans); the offsets (M, A-scans) repeat."""
    depth, width = targets.shape[1:]
    for left in range(0, width, _BLOCK[1]):
        columns = slice(left, min(left + _BLOCK[1], width))
        height = min(depth, _BLOCK[0] * _BLOCK[1] // (columns.stop - left))
        rows = np.arange(first, first + height, dtype=np.int16)[:, None]
        places = np.empty((height, columns.stop - left, 2), np.int16)  # column and row to read
        places[..., 0] = np.arange(columns.stop - left)
        for plane, (source, target) in enumerate(zip(sources, targets, strict=True)):
            shifts = offsets[plane % len(offsets), columns]
            for top in range(0, depth, height):
                np.subtract(rows + np.int16(top), shifts, out=places[..., 1])
                part = target[top : top + height, columns]
                cv2.remap(source[:, columns], places[: len(part)], None, cv2.INTER_NEAREST, part)


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return float32 without values, in large pages, axes in the order in memory of another's."""
    strides = like.stride()
    order = sorted(range(like.ndim), key=lambda axis: -strides[axis])
    return torch.from_numpy(np.empty([shape[axis] for axis in order], np.float32)).permute(*np.argsort(order).tolist())


class FlattenToBruchsMembrane(InvertibleTransform):
    """Shift every A-scan so that Bruch's membrane lies on one row; ``inverse`` shifts them back.

    With ``mode="nearest"`` shifts are whole rows, and the way back gives every pixel that was not shifted out of the
    image, exactly. B-scans that show no membrane take the next one's rows.
    A membrane that came with the file (`monai_anomaly.data.SpectralisReader`) is taken before any is looked for.

    Args:
        depth_axis: spatial axis along which A-scans run; 0 for (C, rows, A-scans[, B-scans]).
        row_fraction: where the membrane goes, over the number of rows, in [0, 1); None for its median row.
        mode: "nearest", whole rows; "bilinear", fractions, which blurs along the depth.
        fill_value: lowest value of white fill around turned B-scans, see `fill_mask` (OCT2017: 250); None for none.

    Shape:
        (C, rows, A-scans) or (C, rows, A-scans, B-scans) in and out.

    Raises:
        ValueError: arguments out of range, rows of another shape than the A-scans, or no membrane in any B-scan.
    """

    def __init__(
        self,
        depth_axis: int = 0,
        row_fraction: float | None = None,
        mode: str = "nearest",
        fill_value: float | None = None,
    ) -> None:
        self.depth_axis = check_option("depth_axis", depth_axis, (0, 1, 2))
        self.mode = check_option("mode", mode, _MODES)
        if row_fraction is not None:
            check_range("row_fraction", row_fraction, 0, 1)
        self.row_fraction, self.fill_value = row_fraction, fill_value

    def shifts(self, image: Tensor, membrane: Tensor | None = None) -> Tensor:
        """Return the shifts in rows, (A-scans, ...) float32.

        Args:
            image: (C, rows, A-scans, ...).
            membrane: its rows, (A-scans, ...), where they are known; by default those that the image's metadata have
                (`monai_anomaly.data.SpectralisReader`), else they are estimated.
        """
        plain = convert_to_tensor(image)
        depth = plain.shape[self.depth_axis + 1]
        others = [n for axis, n in enumerate(plain.shape[1:]) if axis != self.depth_axis]
        if membrane is None:
            membrane = known_membrane(image, tuple(others))
        if membrane is None:
            seen = None if self.fill_value is None else ~fill_of_scans(plain, self.fill_value, self.depth_axis)
            membrane = estimate_bruchs_membrane(plain, self.depth_axis, seen)
        rows = convert_to_tensor(membrane).float()
        if list(rows.shape) != others:
            msg = f"Bruch's membrane is {tuple(rows.shape)}, the image's A-scans {tuple(others)}; give a row for each."
            raise ValueError(msg)
        rows = without_gaps(rows)
        target = rows.median() if self.row_fraction is None else rows.new_tensor(self.row_fraction * depth)
        return target.round() - rows

    def __call__(self, data: Tensor, membrane: Tensor | None = None, shifts: Tensor | None = None) -> Tensor:
        """Return the flattened image.

        Args:
            data: the image.
            membrane: see `shifts`.
            shifts: of another image of the same eye, to move this one alike; ``membrane`` is not needed then.
        """
        if shifts is None:
            shifts = self.shifts(data, membrane)
        result = self._shift(data, shifts, self.mode)
        if isinstance(result, MetaTensor):
            result.meta.pop(LAYERS, None)  # they are elsewhere now
            self.push_transform(result, extra_info={"shifts": shifts.cpu(), "mode": self.mode})
        return result

    def inverse(self, data: Tensor) -> Tensor:
        """Return the image as it was, but for what was shifted out of it."""
        info = self.pop_transform(data)[TraceKeys.EXTRA_INFO]  # Invertd may have set the mode to "nearest"
        return self._shift(data, -info["shifts"], info["mode"])

    def _shift(self, data: Tensor, shifts: Tensor, mode: str) -> Tensor:
        used = shifts.round() if mode == "nearest" else shifts
        result = shift_a_scans(convert_to_tensor(data), used, self.depth_axis)
        return convert_to_dst_type(result, data, dtype=result.dtype)[0]


class FlattenToBruchsMembraned(MapTransform, InvertibleTransform):
    """Dictionary version of `FlattenToBruchsMembrane`: what the first key shows moves all.

    Args:
        keys: images and labels of one eye on one grid; the membrane is looked for in the first.
        depth_axis: see `FlattenToBruchsMembrane`.
        row_fraction: see `FlattenToBruchsMembrane`.
        mode: one for all, or one for each key; labels take "nearest".
        fill_value: see `FlattenToBruchsMembrane`.
        membrane_key: of the membrane's rows, where they are known, (A-scans, ...); they move with the images. Where the
            data have no such key, or None there, they are estimated.
        allow_missing_keys: do nothing where a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        depth_axis: int = 0,
        row_fraction: float | None = None,
        mode: str | Sequence[str] = "nearest",
        fill_value: float | None = None,
        membrane_key: str | None = "membrane",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.membrane_key = membrane_key
        self.transforms = [
            FlattenToBruchsMembrane(depth_axis, row_fraction, one, fill_value)
            for one in ensure_tuple_rep(mode, len(self.keys))
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data flattened."""
        result = dict(data)
        shifts = None
        for key, transform in self.key_iterator(result, self.transforms):
            if shifts is None:
                shifts = transform.shifts(result[key], result.get(self.membrane_key))
            result[key] = transform(result[key], shifts=shifts)
        if shifts is not None and result.get(self.membrane_key) is not None:
            result[self.membrane_key] = convert_to_tensor(result[self.membrane_key]).cpu() + shifts.cpu()
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data as they were."""
        result = dict(data)
        shifts = None
        for key, transform in self.key_iterator(result, self.transforms):
            shifts = transform.get_most_recent_transform(result[key])[TraceKeys.EXTRA_INFO]["shifts"]
            result[key] = transform.inverse(result[key])
        if shifts is not None and result.get(self.membrane_key) is not None:
            result[self.membrane_key] = convert_to_tensor(result[self.membrane_key]).cpu() - shifts
        return result
