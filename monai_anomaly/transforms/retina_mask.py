"""Which pixels of an OCT show the retina."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.transforms.bruchs_membrane import estimate_bruchs_membrane, estimate_inner_surface
from monai_anomaly.transforms.fill_mask import fill_of_scans
from monai_anomaly.transforms.known_membrane import known_membrane, without_gaps


def retina_mask(
    image: Tensor,
    depth_axis: int = 0,
    membrane: Tensor | None = None,
    outside: float = 0.0,
    margin: int = 0,
    fill_value: float | None = None,
) -> Tensor:
    """Return where an OCT shows the retina, from its inner surface to Bruch's membrane.

    Args:
        image: (C, rows, A-scans) or (C, rows, A-scans, B-scans).
        depth_axis: spatial axis along which A-scans run.
        membrane: rows of Bruch's membrane, (A-scans, ...), where they are known; by default they are estimated.
        outside: value beside the retina's 1, in [0, 1]; 0.5 is AGM's soft mask.
        margin: rows added above and below, at least 0.
        fill_value: lowest value of white fill around turned B-scans, see `fill_mask` (OCT2017: 250); None for none.

    Shape:
        output (1, ...) on the image's grid, float32; ``outside`` where no membrane is known or seen.

    Raises:
        ValueError: arguments out of range.
    """
    check_range("outside", outside, 0, 1)
    check_range("margin", margin, 0)
    plain = convert_to_tensor(image)
    seen = None if fill_value is None else ~fill_of_scans(plain, fill_value, depth_axis)
    if membrane is None:
        membrane = estimate_bruchs_membrane(plain, depth_axis, seen)
    membrane = convert_to_tensor(membrane).float().to(plain.device)
    surface = estimate_inner_surface(plain, membrane, depth_axis, seen)
    rows = torch.arange(plain.shape[depth_axis + 1], device=plain.device).reshape(-1, *(1,) * surface.ndim)
    inside = (rows >= surface - margin) & (rows <= membrane + margin)  # NaN is never inside
    mask = torch.where(inside, 1.0, outside).movedim(0, depth_axis)[None]
    return mask if seen is None else torch.where(seen, mask, outside)


class RetinaMask(Transform):
    """Array version of `retina_mask`, whose arguments and errors it shares."""

    def __init__(
        self, depth_axis: int = 0, outside: float = 0.0, margin: int = 0, fill_value: float | None = None
    ) -> None:
        check_range("outside", outside, 0, 1)
        check_range("margin", margin, 0)
        self.depth_axis = check_option("depth_axis", depth_axis, (0, 1, 2))
        self.outside, self.margin, self.fill_value = outside, margin, fill_value

    def __call__(self, data: Tensor, membrane: Tensor | None = None) -> Tensor:
        """Return the mask; a membrane that came with the file is taken before any is looked for."""
        if membrane is None:
            known = known_membrane(data, tuple(n for axis, n in enumerate(data.shape[1:]) if axis != self.depth_axis))
            membrane = None if known is None else without_gaps(known)
        mask = retina_mask(data, self.depth_axis, membrane, self.outside, self.margin, self.fill_value)
        return convert_to_dst_type(mask, data, dtype=torch.float32)[0]


class RetinaMaskd(MapTransform):
    """Dictionary version of `RetinaMask`: adds the masks under ``mask_key`` (one key) or ``<key>_<mask_key>``."""

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "retina",
        depth_axis: int = 0,
        outside: float = 0.0,
        margin: int = 0,
        fill_value: float | None = None,
        membrane_key: str | None = "membrane",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key, self.membrane_key = mask_key, membrane_key
        self.transform = RetinaMask(depth_axis, outside, margin, fill_value)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the masks added."""
        result = dict(data)
        for key in self.key_iterator(result):
            name = self.mask_key if len(self.keys) == 1 else f"{key}_{self.mask_key}"
            result[name] = self.transform(result[key], result.get(self.membrane_key))
        return result
