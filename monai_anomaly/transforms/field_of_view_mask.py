"""The part of a fundus photograph that shows the eye, not the black frame around it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor
from scipy import ndimage
from torch import Tensor

from monai_anomaly.checks import check_range

_WORK_SIZE = 512  # the mask is a smooth outline: finding it at this size is as good and much faster


def field_of_view_mask(image: Tensor, threshold: float = 0.06, margin_fraction: float = 0.01) -> Tensor:
    """Return where the image shows the eye: brighter than the frame, the largest piece, holes filled, border shaved.

    Args:
        image: (C, H, W) or (C, H, W, D) of any scale; a volume's mask is found slice by slice along the last axis.
        threshold: of the brightest channel, as a fraction of its 99th percentile, in (0, 1).
        margin_fraction: of the shorter side taken off the border, where the frame's edge is smeared, in [0, 0.5).

    Shape:
        output (1, H, W) or (1, H, W, D), bool; all False for an image without content.

    Raises:
        ValueError: threshold or margin outside their ranges.
    """
    check_range("threshold", threshold, 0, 1, low_open=True)
    check_range("margin_fraction", margin_fraction, 0, 0.49)
    brightest = np.asarray(convert_to_tensor(image).amax(0).float())
    if brightest.ndim == 3:
        slices = [_outline(brightest[..., i], threshold, margin_fraction) for i in range(brightest.shape[-1])]
        return torch.from_numpy(np.stack(slices, -1))[None]
    return torch.from_numpy(_outline(brightest, threshold, margin_fraction))[None]


def _outline(brightest: np.ndarray, threshold: float, margin_fraction: float) -> np.ndarray:
    step = max(1, min(brightest.shape) // _WORK_SIZE)
    small = ndimage.uniform_filter(brightest, step)[::step, ::step] if step > 1 else brightest
    small = small - small.min()
    mask = small > threshold * max(float(np.percentile(small, 99)), 1e-12)
    pieces, count = ndimage.label(ndimage.binary_opening(mask, iterations=2))
    if count:
        mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    mask = ndimage.binary_fill_holes(mask)
    margin = round(margin_fraction * min(small.shape))
    if margin:
        mask = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] > margin
    rows, columns = (np.minimum(np.arange(n) // step, m - 1) for n, m in zip(brightest.shape, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


class FieldOfViewMask(Transform):
    """Array version of `field_of_view_mask`, whose arguments and errors it shares."""

    def __init__(self, threshold: float = 0.06, margin_fraction: float = 0.01) -> None:
        self.threshold = threshold
        self.margin_fraction = margin_fraction

    def __call__(self, data: Tensor) -> Tensor:
        """Return the mask."""
        return field_of_view_mask(data, self.threshold, self.margin_fraction)


class FieldOfViewMaskd(MapTransform):
    """Dictionary version of `FieldOfViewMask`: adds the masks under ``mask_key`` (one key) or ``<key>_<mask_key>``."""

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "field_of_view",
        threshold: float = 0.06,
        margin_fraction: float = 0.01,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.transform = FieldOfViewMask(threshold, margin_fraction)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the masks added."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[self.mask_key if len(self.keys) == 1 else f"{key}_{self.mask_key}"] = self.transform(result[key])
        return result
