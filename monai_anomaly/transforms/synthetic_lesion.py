"""Lesions made of healthy tissue: augmented, cut to a random shape, and mixed into another healthy image.

Niu et al. 2023, "ReSynthDetect", section 3.3, Eqs. 3 and 4.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor, ensure_tuple_rep
from torch import Tensor

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.transforms.color_augment import AUGMENTATIONS, PAPER_AUGMENTATIONS, STAINS, augment_crop
from monai_anomaly.transforms.field_of_view_mask import field_of_view_mask
from monai_anomaly.transforms.perlin import perlin_noise

_MAX_TRIES = 20
_COARSE = 8  # the field of view is kept at every eighth pixel


def fusion_weights(mask: np.ndarray, alpha: float = 0.7) -> np.ndarray:
    """Return W = (1 - alpha) (D - min D) / (max D - min D) + alpha, Eq. 3, D the distance to the background.

    Args:
        mask: P, (h, w), above 0 is inside; beyond the border is background.
        alpha: weight of the source at the shape's border, in [0, 1] (paper: 0.7).

    Shape:
        output (h, w), float32: alpha outside, 1 at the deepest.

    Raises:
        ValueError: alpha outside [0, 1], or an empty mask.
    """
    check_range("alpha", alpha, 0, 1)
    inside = np.asarray(mask) > 0
    if not inside.any():
        msg = "The lesion's mask is empty; expected at least one pixel inside."
        raise ValueError(msg)
    ring = np.pad(inside, 1).astype(np.uint8)  # so that a mask of ones has a background, and min D is 0
    distance = cv2.distanceTransform(ring, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.asarray((1 - alpha) * distance / distance.max() + alpha, dtype=np.float32)


def self_mix(source: np.ndarray, target: np.ndarray, mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return C = (P W) C_s + (1 - P W) C_t, Eq. 4.

    Args:
        source: C_s, (h, w, C).
        target: C_t, the same shape.
        mask: P, (h, w), 0 or 1.
        weights: W, (h, w).
    """
    share = (mask * weights)[..., None].astype(np.float32)
    return np.asarray(share * source + (1 - share) * target)


def perlin_mask(
    shape: Sequence[int], rng: np.random.RandomState, max_exponent: int = 5, threshold: float = 0.5
) -> np.ndarray:
    """Return a random shape (h, w), bool: Perlin noise of random fineness, turned, above a threshold.

    The lattice has 2^k cells per axis, k drawn for each, with cells of at least 4 pixels. It may be empty.

    Args:
        shape: height and width.
        rng: of everything random.
        max_exponent: largest k (DRAEM: 5).
        threshold: of the noise, in (-1, 1) (DRAEM: 0.5).
    """
    cells = [2 ** rng.randint(0, min(max_exponent, max(0, int(np.log2(max(n / 4, 1))))) + 1) for n in shape]
    noise = perlin_noise(shape, cells, rng)
    height, width = shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-90, 90), 1.0)
    return np.asarray(cv2.warpAffine(noise, turn, (width, height), flags=cv2.INTER_LINEAR) > threshold)


class RandSyntheticLesion(Randomizable, Transform):
    """Put synthetic lesions into a healthy image and return it with their mask.

    Source and target places are drawn apart from one another, both inside the field of view.

    Args:
        source: healthy images to take tissue from, each (C, H, W) or a mapping that holds one under ``source_key``;
            anything with a length and an index.
        prob: of putting any lesion in, in [0, 1].
        num_lesions: fewest and most lesions in an image.
        size_fraction: shortest and longest side of a crop over that of the image, in (0, 1].
        num_augmentations: of the source, 0 to 5 (paper: 3 of 7; gray images have 5).
        augmentations: to choose from, names of `monai_anomaly.transforms.color_augment.AUGMENTATIONS` (paper: all
            but brightness and absorb).
        alpha: see `fusion_weights`.
        edge_sigma: blur of the weights P W, in pixels (paper: 0). Photographs much reduced show no edge as hard as that
            of a shape drawn at the reduced size.
        use_perlin: False pastes whole crops, the ablation of Table 4.
        use_self_mix: False pastes without a soft border, the ablation of Table 4.
        min_contrast: least change a lesion makes, the mean over its pixels of the channel that changes most, over the
            width of ``value_range``; less is drawn again (paper: 0). Unseen ones would teach to mark healthy tissue.
        own_tissue: share of lesions made of the very tissue they cover, after one or two of `STAINS`, as bleedings look
            (paper: 0); vessels go on beneath.
        value_range: lowest and highest value of the images.
        source_key: see ``source``.
        field_of_view: whether lesions stay inside the eye, and whether tissue is taken from inside one, or one answer
            to both. For images that fill the frame, False; for tissue from textures, (True, False).

    Shape:
        image (C, H, W); output the image (C, H, W) of its type with its metadata, and the mask (1, H, W), uint8.

    Raises:
        ValueError: numbers out of range, own tissue without a stain, no source, another number of channels, an image
            smaller than a crop, or no field of view found.
    """

    def __init__(
        self,
        source: Any,
        prob: float = 0.8,
        num_lesions: Sequence[int] = (1, 4),
        size_fraction: Sequence[float] = (0.04, 0.35),
        num_augmentations: int = 3,
        alpha: float = 0.7,
        use_perlin: bool = True,
        use_self_mix: bool = True,
        value_range: Sequence[float] = (0.0, 1.0),
        source_key: str = "image",
        field_of_view: bool | Sequence[bool] = True,
        augmentations: Sequence[str] = PAPER_AUGMENTATIONS,
        edge_sigma: float = 0.0,
        min_contrast: float = 0.0,
        own_tissue: float = 0.0,
    ) -> None:
        check_range("number of source images", len(source), 1)
        check_range("prob", prob, 0, 1)
        check_range("num_lesions", num_lesions[0], 1, num_lesions[1])
        check_range("size_fraction", size_fraction[0], 0, size_fraction[1], low_open=True)
        check_range("size_fraction", size_fraction[1], 0, 1)
        check_range("num_augmentations", num_augmentations, 0, 5)
        for name in augmentations:
            check_option("augmentation", name, list(AUGMENTATIONS))
        check_range("edge_sigma", edge_sigma, 0)
        check_range("min_contrast", min_contrast, 0, 1)
        check_range("own_tissue", own_tissue, 0, 1)
        self.stains = tuple(name for name in STAINS if name in augmentations)
        if own_tissue and not self.stains:
            msg = (
                f"own_tissue needs one of {', '.join(STAINS)} among the augmentations, got {', '.join(augmentations)}."
            )
            raise ValueError(msg)
        check_range("alpha", alpha, 0, 1)
        check_range("width of value_range", value_range[1] - value_range[0], 0, low_open=True)
        self.source, self.prob, self.num_lesions, self.size_fraction = source, prob, num_lesions, size_fraction
        self.num_augmentations, self.alpha = num_augmentations, alpha
        self.use_perlin, self.use_self_mix = use_perlin, use_self_mix
        self.value_range, self.source_key = tuple(value_range), source_key
        self.field_of_view, self.source_field_of_view = ensure_tuple_rep(field_of_view, 2)
        self.augmentations, self.edge_sigma, self.min_contrast = tuple(augmentations), edge_sigma, min_contrast
        self.own_tissue = own_tissue
        self._views: dict[int, np.ndarray] = {}

    def __call__(self, data: Tensor) -> tuple[Tensor, Tensor]:
        """Return image and mask."""
        plain = convert_to_tensor(data)
        mask = np.zeros(plain.shape[1:], np.uint8)
        if self.R.uniform() >= self.prob:
            return data, convert_to_dst_type(torch.from_numpy(mask)[None], data, dtype=torch.uint8)[0]
        result = plain.detach().cpu().float().clone()
        view = self._view(plain, self.field_of_view)
        for _ in range(self.R.randint(self.num_lesions[0], self.num_lesions[1] + 1)):
            self._paste(result.movedim(0, -1).numpy(), mask, view)
        if not plain.dtype.is_floating_point:
            result = result.round()
        return (
            convert_to_dst_type(result, data, dtype=plain.dtype)[0],
            convert_to_dst_type(torch.from_numpy(mask)[None], data, dtype=torch.uint8)[0],
        )

    def _paste(self, image: np.ndarray, mask: np.ndarray, view: np.ndarray) -> None:
        """Put one lesion into the image (H, W, C), whatever its range, and into its mask, in place."""
        number = self.R.randint(len(self.source))
        source = self._source(number, image.shape[2])
        whole = self._unit(source)
        if number not in self._views:
            self._views[number] = self._view(source, self.source_field_of_view)
        source_view = self._views[number]
        low, high = (np.array(image.shape[:2]) * fraction for fraction in self.size_fraction)
        size = np.maximum(1, np.round(self.R.uniform(low, np.maximum(high, low)))).astype(int)
        if (size > whole.shape[:2]).any():
            msg = (
                f"A crop of {size[0]} x {size[1]} does not fit into a source image of {whole.shape[0]} x "
                f"{whole.shape[1]}; resize the source to the image's size, or lower size_fraction."
            )
            raise ValueError(msg)
        names, own = self.augmentations, bool(self.own_tissue) and self.R.uniform() < self.own_tissue
        if own:
            whole, source_view, names = self._unit(torch.from_numpy(image).movedim(-1, 0)), view, self.stains
        for _ in range(_MAX_TRIES):
            there = self._place(source_view, size, whole.shape)
            here = self._place(view, size, image.shape)
            there = here if own else there
            shape = perlin_mask(size, self.R) if self.use_perlin else np.ones(size, bool)
            shape &= _enlarged(view, here) & _enlarged(source_view, there)
            if shape.any():
                count = self.R.randint(1, 3) if own else self.num_augmentations
                crop = augment_crop(whole, *there, count, self.R, names)
                weights = fusion_weights(shape, self.alpha) if self.use_self_mix else np.ones(size, np.float32)
                low_value, high_value = self.value_range
                crop = crop * np.float32(high_value - low_value) + np.float32(low_value)
                if self.edge_sigma:
                    mixed = self_mix(crop, image[here], np.ones(size), self._soft(shape * weights))
                else:
                    mixed = self_mix(crop, image[here], shape, weights)
                change = np.abs(mixed - image[here]).max(2)[shape].mean() / (high_value - low_value)
                if change < self.min_contrast:
                    continue
                image[here] = mixed
                mask[here] |= shape
                return

    def _soft(self, weights: np.ndarray) -> np.ndarray:
        blurred = cv2.GaussianBlur(weights, (0, 0), self.edge_sigma, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(blurred)

    def _place(self, view: np.ndarray, size: np.ndarray, shape: Sequence[int]) -> tuple[slice, slice]:
        """Return where a crop of a size goes, its center inside the field of view as far as the borders allow."""
        inside = np.flatnonzero(view)
        spot = np.array(np.unravel_index(inside[self.R.randint(len(inside))], view.shape))
        center = spot * _COARSE + self.R.randint(_COARSE, size=2)
        start = np.clip(center - size // 2, 0, np.array(shape[:2]) - size)
        return slice(int(start[0]), int(start[0] + size[0])), slice(int(start[1]), int(start[1] + size[1]))

    def _source(self, number: int, num_channels: int) -> Tensor:
        item = self.source[number]
        source = convert_to_tensor(item[self.source_key] if isinstance(item, Mapping) else item)
        if len(source) != num_channels:
            msg = f"A source image has {len(source)} channels, the image {num_channels}; give images of one kind."
            raise ValueError(msg)
        return source

    def _unit(self, plain: Tensor) -> np.ndarray:
        """Return (H, W, C), float32 in [0, 1]."""
        low, high = self.value_range
        picture = plain.detach().cpu().float().movedim(0, -1).numpy()
        return np.clip((picture - low) / np.float32(high - low), 0, 1)

    def _view(self, plain: Tensor, field_of_view: bool) -> np.ndarray:
        """Return the field of view at every eighth pixel."""
        if not field_of_view:
            return np.ones([-(-n // _COARSE) for n in plain.shape[1:]], bool)
        view = field_of_view_mask(plain[:, ::_COARSE, ::_COARSE])[0].numpy()
        if not view.any():
            msg = "No field of view found in an image; expected an eye on a dark frame: pass field_of_view=False."
            raise ValueError(msg)
        return np.asarray(view)


def _enlarged(view: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """Return the field of view of a crop at full size."""
    rows, columns = (
        np.minimum(np.arange(part.start, part.stop) // _COARSE, limit - 1)
        for part, limit in zip(place, view.shape, strict=True)
    )
    return np.asarray(view[np.ix_(rows, columns)])


class RandSyntheticLesiond(Randomizable, MapTransform):
    """Dictionary version of `RandSyntheticLesion`: adds the mask under ``mask_key``."""

    def __init__(
        self,
        keys: KeysCollection,
        source: Any,
        mask_key: str = "lesion",
        prob: float = 0.8,
        num_lesions: Sequence[int] = (1, 4),
        size_fraction: Sequence[float] = (0.04, 0.35),
        num_augmentations: int = 3,
        alpha: float = 0.7,
        use_perlin: bool = True,
        use_self_mix: bool = True,
        value_range: Sequence[float] = (0.0, 1.0),
        source_key: str = "image",
        field_of_view: bool | Sequence[bool] = True,
        augmentations: Sequence[str] = PAPER_AUGMENTATIONS,
        edge_sigma: float = 0.0,
        min_contrast: float = 0.0,
        own_tissue: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.mask_key = mask_key
        self.transform = RandSyntheticLesion(
            source, prob, num_lesions, size_fraction, num_augmentations, alpha, use_perlin, use_self_mix,
            value_range, source_key, field_of_view, augmentations, edge_sigma, min_contrast,
            own_tissue,
        )  # fmt: skip

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandSyntheticLesiond:
        """Set the random state of this and of the array transform."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with lesions in the images, and their mask."""
        result = dict(data)
        for key in self.key_iterator(result):
            name = self.mask_key if len(self.keys) == 1 else f"{key}_{self.mask_key}"
            result[key], result[name] = self.transform(data[key])
        return result
