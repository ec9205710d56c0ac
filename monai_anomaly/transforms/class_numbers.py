"""A label file's gray values as the numbers of classes, and which classes there are."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

IGNORED = 255
"""A label of pixels that nothing is known of."""


def class_numbers(label: Tensor, values: Sequence[int], ignored: Sequence[int] = ()) -> Tensor:
    """Return 1 for the first value, 2 for the second, and so on, 0 for all others.

    Args:
        label: (1, ...), values of a label file.
        values: of the classes, in their order (RESC: 191 SRF, 128 PED).
        ignored: values of pixels that nobody labeled; they become 255.

    Shape:
        output (1, ...), uint8.
    """
    plain = convert_to_tensor(label)
    numbers = torch.zeros(plain.shape, dtype=torch.uint8, device=plain.device)
    for number, value in enumerate(values, 1):
        numbers[plain == value] = number
    for value in ignored:
        numbers[plain == value] = IGNORED
    return numbers


def present_classes(label: Tensor, num_classes: int, slice_axis: int = 2) -> Tensor:
    """Return which classes an image has, (K,), or each slice of a volume, (K, D), 0 or 1.

    NaN where no pixel is labeled.

    Args:
        label: (1, H, W) or (1, H, W, D), 0 for none, 1 to K.
        num_classes: K.
        slice_axis: of volumes, the voxel axis that slices follow one another along.
    """
    plain = convert_to_tensor(label)[0]
    plain = plain if plain.ndim == 2 else plain.movedim(slice_axis, -1)
    numbers = torch.arange(1, num_classes + 1, device=plain.device).view(-1, *(1,) * plain.ndim)
    found = (plain == numbers).flatten(1, 2).any(1).float()
    return torch.where((plain == IGNORED).flatten(0, 1).all(0), torch.nan, found)


class ClassNumbers(Transform):
    """Array version of `class_numbers`, whose arguments it shares."""

    def __init__(self, values: Sequence[int], ignored: Sequence[int] = ()) -> None:
        self.values, self.ignored = tuple(values), tuple(ignored)

    def __call__(self, label: Tensor) -> Tensor:
        """Return the numbers."""
        return convert_to_dst_type(class_numbers(label, self.values, self.ignored), label, dtype=torch.uint8)[0]


class ClassNumbersd(MapTransform):
    """Dictionary version of `ClassNumbers`; ``present_key`` adds `present_classes`."""

    def __init__(
        self,
        keys: KeysCollection,
        values: Sequence[int],
        ignored: Sequence[int] = (),
        present_key: str | None = None,
        slice_axis: int = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ClassNumbers(values, ignored)
        self.present_key, self.slice_axis = present_key, slice_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with numbers."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
            if self.present_key is not None:
                result[self.present_key] = present_classes(result[key], len(self.transform.values), self.slice_axis)
        return result
