"""Fundus photographs: a lit disk with optic disc, fovea and vessel trees, and lesions of diabetic retinopathy."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage
from scipy.special import expit

from monai_anomaly.checks import check_range
from monai_anomaly.data.phantoms.phantom import Phantom, check_lesions, ellipsoid_distance, smooth_noise

KINDS = {"MA": 1, "HE": 2, "EX": 3, "SE": 4}

# how many, radius as a fraction of the height, color change (red, green, blue), softness in pixels per radius
_LOOKS = {
    "MA": (12, 0.006, (-0.10, -0.16, -0.06), 0.4),
    "HE": (4, 0.025, (-0.22, -0.20, -0.08), 0.25),
    "EX": (18, 0.010, (0.22, 0.34, 0.16), 0.25),
    "SE": (2, 0.040, (0.12, 0.18, 0.16), 0.5),
}


def fundus_phantom(
    shape: tuple[int, int] = (356, 536), lesions: Sequence[str] = (), difficulty: float = 0.3, seed: int = 0
) -> Phantom:
    """Return a fundus photograph (H, W, 3), uint8.

    Args:
        shape: rows and columns, at least (64, 64).
        lesions: kinds to put in: "MA", "HE", "EX", "SE" (microaneurysms, hemorrhages, hard and soft exudates).
        difficulty: in [0, 1].
        seed: of everything random.

    Returns:
        With structures "optic_disc" and "field_of_view", masks.

    Raises:
        ValueError: unknown lesion, difficulty outside [0, 1], or a shape too small.
    """
    check_lesions(lesions, KINDS)
    check_range("difficulty", difficulty, 0, 1)
    check_range("rows", min(shape), 64)
    height, width = shape
    rng = np.random.default_rng(seed)
    center = ((height - 1) / 2 + rng.uniform(-0.02, 0.02) * height, (width - 1) / 2 + rng.uniform(-0.02, 0.02) * width)
    radius = 0.49 * min(width, height * 1.25)
    distance = ellipsoid_distance(shape, center, (radius, radius))
    side = rng.choice((-1, 1))
    disc_center = (center[0] + rng.uniform(-0.04, 0.04) * height, center[1] + side * 0.55 * radius)
    disc_radius = 0.155 * radius
    fovea = (center[0] + rng.uniform(0.0, 0.06) * height, center[1] - side * 0.10 * radius)

    base = np.array([0.72, 0.36, 0.13]) * (1 + 0.1 * rng.uniform(-1, 1, 3))
    light = 1.08 - 0.35 * ellipsoid_distance(shape, (center[0] * 1.05, center[1] * 0.95), (radius, radius)) ** 2
    light = light * (1 + 0.05 * smooth_noise(rng, shape, height / 4) + 0.025 * smooth_noise(rng, shape, height / 30))
    image = base * light[..., None]
    dark = np.exp(-(ellipsoid_distance(shape, fovea, (0.16 * radius, 0.16 * radius)) ** 2))
    image *= 1 - np.array([0.25, 0.42, 0.35]) * dark[..., None]
    disc = ellipsoid_distance(shape, disc_center, (disc_radius * 1.08, disc_radius * 0.95))
    cup = ellipsoid_distance(shape, disc_center, (disc_radius * 0.5, disc_radius * 0.45))
    for inside, color in ((disc, (0.95, 0.70, 0.38)), (cup, (1.0, 0.86, 0.60))):
        weight = expit((1 - inside) * 14)
        image = image * (1 - weight[..., None]) + np.array(color) * weight[..., None]
    vessels = _vessels(rng, shape, disc_center, side, radius)
    image *= 1 - np.array([0.35, 0.62, 0.45]) * vessels[..., None]
    label = np.zeros(shape, np.uint8)
    for kind in lesions:
        image = _add_lesions(rng, kind, image, label, (distance < 0.9) & (disc > 1.4), difficulty)
    image = ndimage.gaussian_filter(image, (0.7, 0.7, 0))
    image += 0.012 * (1 + 2 * difficulty) * rng.standard_normal(image.shape)
    field = distance < 1
    image = np.clip(image, 0, 1) * field[..., None] + 0.01 * ~field[..., None]
    structures = {"optic_disc": (disc < 1).astype(np.uint8), "field_of_view": field.astype(np.uint8)}
    return Phantom((image * 255).astype(np.uint8), label, KINDS, structures=structures)


def _vessels(
    rng: np.random.Generator, shape: tuple[int, int], disc_center: tuple[float, float], side: int, radius: float
) -> np.ndarray:
    """Return vessel opacity in [0, 1]: arcades that leave the disc upward and downward and bend around the fovea."""
    canvas = np.zeros(shape, np.uint8)

    def grow(row: float, column: float, angle: float, bend: float, size: float, length: float) -> None:
        points = []
        for step in np.arange(0, length, 4.0):
            points.append((column, row))
            angle += bend + rng.normal(0, 0.05)
            row, column = row + 4 * np.sin(angle), column + 4 * np.cos(angle)
            if size > 1.6 and step > 8 and rng.random() < 0.10:
                turn = rng.choice((-1, 1)) * rng.uniform(0.5, 0.9)
                grow(row, column, angle + turn, -turn / 40, size * 0.6, length * 0.45)
        line = np.round(np.array(points) * 16).astype(np.int32)
        cv2.polylines(canvas, [line], False, 255, max(1, round(size)), cv2.LINE_AA, 4)

    away = np.pi if side > 0 else 0.0
    for up in (-1, 1):
        for spread, scale in ((0.75, 1.0), (1.05, 0.75), (1.9, 0.6)):
            angle = away + side * up * spread * (1 + rng.uniform(-0.1, 0.1))
            grow(*disc_center, angle, -side * up * 0.016 * scale, 0.026 * radius * scale, 1.5 * radius * scale)
    return ndimage.gaussian_filter(canvas / 255.0, 0.8)


def _add_lesions(
    rng: np.random.Generator, kind: str, image: np.ndarray, label: np.ndarray, allowed: np.ndarray, difficulty: float
) -> np.ndarray:
    """Return the image with lesions of one kind, and mark them in ``label`` in place."""
    count, fraction, change, softness = _LOOKS[kind]
    places = np.argwhere(ndimage.binary_erosion(allowed, iterations=3))
    middle = places[rng.integers(len(places))]
    for _ in range(count):
        place = places[rng.integers(len(places))]
        if kind == "EX":  # hard exudates come in clusters
            near = np.abs(places - middle).max(1) < 0.16 * label.shape[0]
            place = places[near][rng.integers(near.sum())]
        size = max(1.2, fraction * label.shape[0] * rng.uniform(0.7, 1.3) * (1 - 0.4 * difficulty))
        radii = size * rng.uniform(0.7, 1.4, 2)
        wobble = 1 + 0.25 * smooth_noise(rng, label.shape, max(2.0, size)) * (size > 2)
        distance = ellipsoid_distance(label.shape, place, radii, rng.uniform(0, np.pi)) * wobble
        weight = expit((1 - distance) / softness * 4) * (1 - 0.6 * difficulty)
        image = image + np.array(change) * (weight * allowed)[..., None]
        label[(distance < 1) & allowed] = KINDS[kind]
    return image
