"""Maps of lesions as labels: the strongest kind where it is stronger than a threshold.

Yang et al. 2024, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_range
from monai_anomaly.keys import PRESENT


def pseudo_label(maps: Tensor, threshold: float, present: Tensor | None = None, slice_axis: int = 2) -> Tensor:
    """Return argmax[tau, H_1, ..., H_K]: 0 where no map is above the threshold, else the number of the largest.

    Args:
        maps: (K, H, W) or (K, H, W, D), in [0, 1].
        threshold: tau, in [0, 1]: 1 gives background alone, 0 a lesion wherever a map is above 0.
        present: (K,) or (K, D), 0 for kinds that the image, or the slice, is known not to have; NaN, or None for
            all, where nothing is known.
        slice_axis: of volumes, the voxel axis that slices follow one another along.

    Shape:
        output (1, ...), uint8.

    Raises:
        ValueError: a threshold beyond [0, 1].
    """
    check_range("threshold", threshold, 0, 1)
    plain = gate_maps(maps, present, slice_axis)
    highest, kind = plain.max(0, keepdim=True)
    return torch.where(highest > threshold, kind + 1, 0).to(torch.uint8)


def gate_maps(maps: Tensor, present: Tensor | None, slice_axis: int = 2) -> Tensor:
    """Return the maps, those of kinds that are not there 0; arguments as of `pseudo_label`."""
    plain = convert_to_tensor(maps)
    if present is None:
        return plain
    known = torch.nan_to_num(convert_to_tensor(present).to(plain), nan=1.0)
    shape = [len(plain), *(1,) * (plain.ndim - 1)]
    if known.ndim == 2:
        shape[slice_axis + 1] = known.shape[1]
    return plain * known.reshape(shape)


class MapsToPseudoLabel(Transform):
    """Array version of `pseudo_label`.

    Args:
        threshold: or a function that returns it, where it is not known before the run.
        slice_axis: see `pseudo_label`.
    """

    def __init__(self, threshold: float | Callable[[], float], slice_axis: int = 2) -> None:
        if not callable(threshold):
            check_range("threshold", threshold, 0, 1)
        self.threshold, self.slice_axis = threshold, slice_axis

    def __call__(self, maps: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the label."""
        threshold = self.threshold() if callable(self.threshold) else self.threshold
        return convert_to_dst_type(pseudo_label(maps, threshold, present, self.slice_axis), maps, dtype=torch.uint8)[0]


class MapsToPseudoLabeld(MapTransform):
    """Dictionary version of `MapsToPseudoLabel`: adds labels of the maps under ``keys`` as ``label_key``.

    Args:
        keys: of the maps, one key.
        threshold: see `MapsToPseudoLabel`.
        slice_axis: see `pseudo_label`.
        label_key: of the labels.
        present_key: of what is known to be there; None or a missing key for nothing.
        allow_missing_keys: see MONAI's MapTransform.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float | Callable[[], float],
        slice_axis: int = 2,
        label_key: str = "pseudo_label",
        present_key: str | None = PRESENT,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = MapsToPseudoLabel(threshold, slice_axis)
        self.label_key, self.present_key = label_key, present_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with labels added."""
        result = dict(data)
        for key in self.key_iterator(result):
            present = None if self.present_key is None else result.get(self.present_key)
            result[self.label_key] = self.transform(result[key], present)
        return result
