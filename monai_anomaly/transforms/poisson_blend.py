"""Anomalies made of another healthy image's patches, blended in without a seam, and labels that say how visible.

Schlueter et al. 2022, "Natural synthetic anomalies for self-supervised anomaly detection and localization", section
3.1, with the settings of the authors' code for chest X-rays.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from scipy import special
from skimage.filters import rank
from skimage.morphology import disk
from torch import Tensor

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.transforms.poisson_solver import BLENDS, poisson_blend

_MAX_TRIES = 200
_FEWEST = 50  # pixels of a patch that are worth blending
_TOLERANCE = 1.0  # gray levels of 255 that count as no change


def change_label(before: np.ndarray, after: np.ndarray, logistic: Sequence[float] | None = (0.5, 4.0)) -> np.ndarray:
    """Return how visible a change is: m / (1 + exp(-k (d - d0))), d the change in gray levels, m where there is one.

    m is the 5 x 5 median of d > 1; d is averaged over the channels and median filtered with a disc of radius 5.

    Args:
        before: (H, W, C), 0 to 255.
        after: the same shape.
        logistic: k and d0, in gray levels (chest X-rays: 1/2 and 4); None for m alone.

    Shape:
        output (H, W), float32 in [0, 1).
    """
    change = np.abs(after.astype(np.float32) - before.astype(np.float32)).mean(2)
    changed = cv2.medianBlur((change > _TOLERANCE).astype(np.uint8), 5) > 0
    if logistic is None or not changed.any():
        return changed.astype(np.float32)
    rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
    part = tuple(slice(max(0, int(at[0]) - 6), int(at[-1]) + 7) for at in (rows, columns))
    smooth = rank.median(np.clip(np.round(change[part]), 0, 255).astype(np.uint8), disk(5)).astype(np.float32)
    label = np.zeros(change.shape, np.float32)
    label[part] = changed[part] * special.expit(logistic[0] * (smooth - logistic[1]))
    return label


class RandPoissonBlend(Randomizable, Transform):
    """Blend patches of other healthy images into one, and return it with the label of the change.

    Args:
        source: healthy images to take patches from, each (C, H, W) or a mapping that holds one under ``source_key``;
            anything with a length and an index.
        num_patches: most of them; the first is always tried, each further one every other time.
        half_width: least and most of a patch's half side over the image's, for rows and for columns.
        gamma: shape, scale and least value of the half side's distribution over the image's side; None for any within
            ``half_width`` alike.
        scale: least and most factor a patch is resized by, drawn from N(1, 0.5).
        min_object: least share of a patch that shows the object, in [0, 1].
        min_overlap: least share of the patch's object that falls on the image's, in [0, 1].
        blend: "mixed" or "normal", see `poisson_blend`.
        logistic: see `change_label`.
        value_range: lowest and highest value of the images.
        source_key: see ``source``.
        mask_key: of the object's mask, in the mappings of ``source``; without one the object is everywhere.

    Shape:
        image (C, H, W) and its object's mask (1, H, W); output the image of its type, with its metadata, and the label
        (1, H, W), float32 in [0, 1).

    Raises:
        ValueError: numbers out of range, no source, or a source of another number of channels.
    """

    def __init__(
        self,
        source: Any,
        num_patches: int = 3,
        half_width: Sequence[Sequence[float]] = ((0.03, 0.4), (0.03, 0.4)),
        gamma: Sequence[float] | None = (2.0, 0.03, 0.05),
        scale: Sequence[float] = (0.7, 1.3),
        min_object: float = 0.7,
        min_overlap: float = 0.7,
        blend: str = "mixed",
        logistic: Sequence[float] | None = (0.5, 4.0),
        value_range: Sequence[float] = (0.0, 1.0),
        source_key: str = "image",
        mask_key: str = "object",
    ) -> None:
        check_range("number of source images", len(source), 1)
        check_range("num_patches", num_patches, 1)
        for low, high in half_width:
            check_range("half_width", low, 0, high, low_open=True)
            check_range("half_width", high, 0, 0.5)
        check_range("scale", scale[0], 0, scale[1], low_open=True)
        check_range("min_object", min_object, 0, 1)
        check_range("min_overlap", min_overlap, 0, 1)
        check_range("width of value_range", value_range[1] - value_range[0], 0, low_open=True)
        self.source, self.num_patches, self.half_width, self.gamma = source, num_patches, half_width, gamma
        self.scale, self.min_object, self.min_overlap = scale, min_object, min_overlap
        self.blend, self.logistic = check_option("blend", blend, BLENDS), logistic
        self.value_range, self.source_key, self.mask_key = tuple(value_range), source_key, mask_key

    def __call__(self, data: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return image and label.

        Args:
            data: the image.
            mask: of the object in it, (1, H, W); None for everywhere.
        """
        plain = convert_to_tensor(data)
        before = self._gray_levels(plain)
        here = _object(mask, before)
        after = before.copy()
        for number in range(self.num_patches):
            if number == 0 or self.R.uniform() < 0.5:
                self._blend_one(after, here)
        label = change_label(before, after, self.logistic)
        low, high = self.value_range
        changed = torch.from_numpy(after).movedim(-1, 0) * ((high - low) / 255) + low
        result = torch.where(torch.from_numpy((before != after).any(2)), changed, plain.cpu().float())
        if not plain.dtype.is_floating_point:
            result = result.round()
        return (
            convert_to_dst_type(result, data, dtype=plain.dtype)[0],
            convert_to_dst_type(torch.from_numpy(label)[None], data, dtype=torch.float32)[0],
        )

    def _gray_levels(self, plain: Tensor) -> np.ndarray:
        """Return (H, W, C), float32, 0 to 255."""
        low, high = self.value_range
        return np.asarray((plain.detach().cpu().float().movedim(0, -1) - low) * (255 / (high - low))).copy()

    def _blend_one(self, image: np.ndarray, here: np.ndarray) -> None:
        """Blend one patch into the image (H, W, C), in place, where a source and a place are found."""
        item = self.source[self.R.randint(len(self.source))]
        source = self._gray_levels(convert_to_tensor(item[self.source_key] if isinstance(item, Mapping) else item))
        if source.shape[2] != image.shape[2]:
            msg = f"A source image has {source.shape[2]} channels, the image {image.shape[2]}; give images of one kind."
            raise ValueError(msg)
        there = _object(item.get(self.mask_key) if isinstance(item, Mapping) else None, source)
        cut = self._cut(there)
        if cut is None:
            return
        patch, shows = self._resized(source[cut], there[cut], image.shape)
        place = self._place(shows, here)
        if place is None or shows.size < _FEWEST:
            return
        blended = poisson_blend(image[place], patch, np.ones(shows.shape), self.blend)
        image[place] = np.clip(blended, 0, 255)

    def _cut(self, there: np.ndarray) -> tuple[slice, slice] | None:
        """Return a rectangle of the source that shows enough of its object, None where none is found."""
        for _ in range(_MAX_TRIES):
            cut = []
            for size, (low, high) in zip(there.shape, self.half_width, strict=True):
                share = self.R.uniform(low, high)
                if self.gamma is not None:
                    share = min(max(self.gamma[2] + self.R.gamma(self.gamma[0], self.gamma[1]), low), high)
                half, margin = max(2, round(share * size)), max(1, round(low * size))
                center = self.R.randint(margin, max(margin + 1, size - margin))
                cut.append(slice(max(0, center - half), min(size, center + half)))
            if there[tuple(cut)].mean() >= self.min_object:
                return cut[0], cut[1]
        return None

    def _resized(self, patch: np.ndarray, shows: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the patch and its object at a random scale, within the bounds of a patch."""
        factor = min(max(self.R.normal(1, 0.5), self.scale[0]), self.scale[1])
        sides = []
        for side, size, (low, high) in zip(shows.shape, shape[:2], self.half_width, strict=True):
            sides.append(int(min(max(round(side * factor), 4, 2 * low * size), 2 * high * size)))
        new = (sides[1], sides[0])
        larger = cv2.resize(patch, new, interpolation=cv2.INTER_LINEAR).reshape(*sides, -1)
        return larger, cv2.resize(shows.astype(np.uint8), new, interpolation=cv2.INTER_NEAREST) > 0

    def _place(self, shows: np.ndarray, here: np.ndarray) -> tuple[slice, slice] | None:
        """Return where the patch goes, None where no place is found."""
        size = shows.shape
        for _ in range(_MAX_TRIES):
            top, left = (self.R.randint(0, whole - side + 1) for whole, side in zip(here.shape, size, strict=True))
            place = slice(top, top + size[0]), slice(left, left + size[1])
            under = here[place]
            overlap = (under & shows).sum() / max(1, shows.sum())
            if under.mean() >= self.min_object and overlap >= self.min_overlap:
                return place
        return None


def _object(mask: Tensor | None, image: np.ndarray) -> np.ndarray:
    """Return the object's mask (H, W), bool; everywhere without one."""
    if mask is None:
        return np.ones(image.shape[:2], bool)
    return np.asarray(convert_to_tensor(mask)[0].cpu().numpy() > 0)


class RandPoissonBlendd(Randomizable, MapTransform):
    """Dictionary version of `RandPoissonBlend`: adds the label under ``label_key``; the object's is ``mask_key``."""

    def __init__(
        self,
        keys: KeysCollection,
        source: Any,
        label_key: str = "label",
        num_patches: int = 3,
        half_width: Sequence[Sequence[float]] = ((0.03, 0.4), (0.03, 0.4)),
        gamma: Sequence[float] | None = (2.0, 0.03, 0.05),
        scale: Sequence[float] = (0.7, 1.3),
        min_object: float = 0.7,
        min_overlap: float = 0.7,
        blend: str = "mixed",
        logistic: Sequence[float] | None = (0.5, 4.0),
        value_range: Sequence[float] = (0.0, 1.0),
        source_key: str = "image",
        mask_key: str = "object",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.label_key, self.mask_key = label_key, mask_key
        self.transform = RandPoissonBlend(
            source, num_patches, half_width, gamma, scale, min_object, min_overlap, blend, logistic, value_range,
            source_key, mask_key,
        )  # fmt: skip

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandPoissonBlendd:
        """Set the random state of this and of the array transform."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the image changed, and its label."""
        result = dict(data)
        for key in self.key_iterator(result):
            name = self.label_key if len(self.keys) == 1 else f"{key}_{self.label_key}"
            result[key], result[name] = self.transform(result[key], result.get(self.mask_key))
        return result
