"""Retinal OCT with its rows first, whatever order a file keeps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Transpose, Transposed
from monai.utils import convert_to_tensor

from monai_anomaly.keys import OCT_AXES


def oct_axes(image: Any, axes: Sequence[int]) -> tuple[int, ...]:
    """Return the voxel axes of an image's rows, A-scans and B-scans: its reader's word, else ``axes``."""
    told = getattr(image, "meta", {}).get(OCT_AXES)
    return tuple(int(axis) for axis in (axes if told is None else convert_to_tensor(told).flatten().tolist()))


class DepthFirstd(Transposed):
    """Turn OCT volumes to (C, rows, A-scans, B-scans); it inverts.

    Readers that know the order of a file's axes say so in the metadata, and their word counts: that of the first key,
    for all. Other files have the order ``axes``.

    Args:
        keys: images and labels of one eye on one grid.
        axes: voxel axes along which rows, A-scans and B-scans follow one another (RETOUCH's files: 1, 0, 2).
        allow_missing_keys: do nothing where a key is missing.

    Raises:
        ValueError: axes that are not 0, 1, 2 in some order.
    """

    def __init__(self, keys: KeysCollection, axes: Sequence[int] = (1, 0, 2), allow_missing_keys: bool = False) -> None:
        if sorted(axes) != [0, 1, 2]:
            msg = f"axes must be 0, 1 and 2 in the order rows, A-scans, B-scans, got {list(axes)}."
            raise ValueError(msg)
        super().__init__(keys, None, allow_missing_keys)
        self.axes = tuple(axes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data turned."""
        result = dict(data)
        indices: list[int] | None = None
        for key in self.key_iterator(result):
            indices = indices or [0, *(axis + 1 for axis in oct_axes(result[key], self.axes))]
            result[key] = Transpose(indices)(result[key])
            self.push_transform(result, key, extra_info={"indices": indices})
        return result
