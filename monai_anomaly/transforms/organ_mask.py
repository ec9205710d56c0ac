"""Keep one organ of an image, as a label file outlines it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_same_grid


def mask_to_organ(image: Tensor, mask: Tensor, labels: Sequence[int] | None = None, background: float = 0.0) -> Tensor:
    """Return the image with everything outside the organ set to one value.

    Args:
        image: (C, ...).
        mask: (1, ...) or (C, ...), a label map on the image's grid.
        labels: values of the organ, its lesions among them (LiTS: 1 liver, 2 tumor); None for all but 0.
        background: value outside.

    Shape:
        output as the image, with its metadata.

    Raises:
        ValueError: mask and image on different grids, or no voxel of the organ.
    """
    check_same_grid("The organ mask", image, mask)
    plain = convert_to_tensor(mask)
    inside = (
        plain > 0 if labels is None else torch.isin(plain.round().long(), torch.tensor(list(labels)).to(plain.device))
    )
    if not bool(inside.any()):
        held = ", ".join(f"{float(v):g}" for v in plain.unique()[:10])
        wanted = "values above 0" if labels is None else f"one of {', '.join(map(str, labels))}"
        msg = f"The organ mask holds {held}, expected {wanted}: set labels, or check that it is this organ's mask."
        raise ValueError(msg)
    values = convert_to_tensor(image)
    kept = torch.where(
        inside.to(values.device), values, torch.as_tensor(background, dtype=values.dtype, device=values.device)
    )
    return convert_to_dst_type(kept, image, dtype=values.dtype)[0]


class MaskToOrgan(Transform):
    """Array version of `mask_to_organ`, whose arguments and errors it shares."""

    def __init__(self, labels: Sequence[int] | None = None, background: float = 0.0) -> None:
        self.labels = labels
        self.background = background

    def __call__(self, data: Tensor, mask: Tensor) -> Tensor:
        """Return the masked image."""
        return mask_to_organ(data, mask, self.labels, self.background)


class MaskToOrgand(MapTransform):
    """Dictionary version of `MaskToOrgan`: ``MaskToOrgand(keys="image", mask_key="liver", labels=[1, 2])``."""

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str,
        labels: Sequence[int] | None = None,
        background: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.transform = MaskToOrgan(labels, background)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with masked images."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(data[key], data[self.mask_key])
        return result
