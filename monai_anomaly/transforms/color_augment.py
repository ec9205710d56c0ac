"""Ways to change a picture's look: seven, of which lesions take three (Niu et al. 2023, section 3.3), and two of ours.

All work on float32 arrays (H, W, C) in [0, 1] and return new ones. The ranges are those of the code of DRAEM where it
has the same operation, else what looks like a lesion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

Augmentation = Callable[[np.ndarray, np.ndarray, np.random.RandomState], np.ndarray]

_SHARPEN = np.array([[-1, -1, -1], [-1, 9, -1], [-1, -1, -1]], np.float32)


def sharpen(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Mix the picture with a sharpened one by a share of 0 to 1."""
    del whole
    share = np.float32(rng.uniform(0, 1))
    sharp = _three_axes(cv2.filter2D(crop, -1, _SHARPEN, borderType=cv2.BORDER_REFLECT_101))
    return np.clip((1 - share) * crop + share * sharp, 0, 1)


def solarize(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Turn over the values above a threshold of 32 to 128 of 255, every other time."""
    del whole
    threshold = np.float32(rng.uniform(32, 128) / 255)
    return np.where(crop >= threshold, 1 - crop, crop) if rng.uniform() < 0.5 else crop


def change_gamma(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Raise each channel to a power of 0.5 to 2."""
    del whole
    return np.power(crop, _draw(rng, 0.5, 2.0, crop.shape[2]))


def change_hue(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Turn the hue by up to 50 / 255 of the circle; three channels only."""
    del whole
    hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 0] = (hsv[..., 0] + np.float32(rng.uniform(-50, 50) / 255 * 360)) % 360
    return np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1)


def change_temperature(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Light the picture by a black body of 3,000 to 9,000 K instead of 6,500; three channels only."""
    del whole
    light = black_body(rng.uniform(3000, 9000)) / black_body(6500)
    return np.clip(crop * (light / light.max()), 0, 1).astype(np.float32)


def stretch_contrast(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Stretch each channel to the whole picture's range, less 0 to 2 % of its pixels at either end."""
    cut = rng.uniform(0, 2)
    thin = whole[::8, ::8].reshape(-1, whole.shape[2])
    low, high = np.percentile(thin, [cut, 100 - cut], axis=0).astype(np.float32)
    return np.clip((crop - low) / np.maximum(high - low, np.float32(1e-6)), 0, 1)


def shift_color(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Add up to 20 / 255 to each channel, or take it off."""
    del whole
    return np.clip(crop + _draw(rng, -20 / 255, 20 / 255, crop.shape[2]), 0, 1)


def change_brightness(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Multiply the picture by 1 / 2 to 2, as thick blood or exudates would; ours, not the paper's."""
    del whole
    return np.clip(crop * np.float32(2 ** rng.uniform(-1, 1)), 0, 1)


def absorb_light(crop: np.ndarray, whole: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Take light away as blood does: up to 20 % of red, 15 to 55 % of green and of blue, or of gray; ours."""
    del whole
    kept = np.array([rng.uniform(0.8, 1.0), rng.uniform(0.45, 0.85), rng.uniform(0.45, 0.85)], dtype=np.float32)
    return np.asarray(crop * (kept if crop.shape[2] == 3 else kept[1]))


AUGMENTATIONS: dict[str, Augmentation] = {
    "sharpen": sharpen,
    "solarize": solarize,
    "gamma": change_gamma,
    "contrast": stretch_contrast,
    "shift": shift_color,
    "hue": change_hue,
    "temperature": change_temperature,
    "brightness": change_brightness,
    "absorb": absorb_light,
}
"""Hue and temperature are for red, green and blue only, the others for any number of channels."""

PAPER_AUGMENTATIONS = tuple(name for name in AUGMENTATIONS if name not in ("brightness", "absorb"))
"""The seven of Niu et al. 2023, section 3.3."""

STAINS = ("absorb", "brightness", "gamma", "shift")
"""Those that change color and brightness alone, as what lies over tissue or soaks it does."""

_COLOR_ONLY = ("hue", "temperature")


def augment_crop(
    whole: np.ndarray,
    rows: slice,
    columns: slice,
    count: int,
    rng: np.random.RandomState,
    names: Sequence[str] = PAPER_AUGMENTATIONS,
) -> np.ndarray:
    """Return a part of a picture after ``count`` different augmentations in random order, (h, w, C).

    Only the part is computed; what depends on the whole picture looks at every eighth of its pixels.

    Args:
        whole: (H, W, C) in [0, 1].
        rows: of the part.
        columns: of the part.
        count: how many of the augmentations; all that fit where there are fewer.
        rng: which, and how strongly.
        names: which of `AUGMENTATIONS` to choose from.
    """
    fitting = [name for name in names if whole.shape[2] == 3 or name not in _COLOR_ONLY]
    crop = np.ascontiguousarray(whole[rows, columns], dtype=np.float32)
    for index in rng.permutation(len(fitting))[:count]:
        crop = AUGMENTATIONS[fitting[index]](crop, whole, rng)
    return crop


def black_body(kelvin: float) -> np.ndarray:
    """Return the linear sRGB color of a black body, its largest component 1, (3,); 1,667 to 25,000 K.

    Kim et al. 2002, the cubic approximation of the Planckian locus in CIE xy, and the sRGB matrix.
    """
    t = 1000 / kelvin
    if kelvin < 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin < 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin < 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    xyz = np.array([x / y, 1.0, (1 - x - y) / y])
    matrix = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    rgb = np.clip(matrix @ xyz, 1e-3, None)
    return np.asarray(rgb / rgb.max(), dtype=np.float32)


def _draw(rng: np.random.RandomState, low: float, high: float, count: int) -> np.ndarray:
    return np.array([rng.uniform(low, high) for _ in range(count)], dtype=np.float32)


def _three_axes(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[..., None]
