"""Retinal OCT volumes: layers on a curved Bruch's membrane, a foveal pit, vessel shadows, speckle, fluid and drusen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from monai_anomaly.checks import check_range
from monai_anomaly.data.phantoms.phantom import Phantom, check_lesions, ellipsoid_distance, smooth_noise

KINDS = {"IRF": 1, "SRF": 2, "PED": 3, "drusen": 4}

# height of each layer's upper edge above Bruch's membrane, as a fraction of the retina's thickness; brightness
_LAYERS = (
    (1.00, 0.78),  # nerve fibers
    (0.90, 0.52),  # ganglion cells, inner plexiform
    (0.66, 0.30),  # inner nuclear
    (0.56, 0.50),  # outer plexiform
    (0.48, 0.20),  # outer nuclear
    (0.24, 0.62),  # ellipsoid zone
    (0.18, 0.34),  # outer segments
)
_EPITHELIUM = (0.10, 0.95)  # retinal pigment epithelium
_VITREOUS, _FLUID, _CHOROID = 0.05, 0.06, 0.42


def oct_phantom(
    shape: tuple[int, int, int] = (256, 192, 24),
    lesions: Sequence[str] = (),
    difficulty: float = 0.3,
    seed: int = 0,
) -> Phantom:
    """Return an OCT volume (A-scans, rows, B-scans), uint8; rows go deeper, "axial" slices are B-scans.

    Args:
        shape: A-scans per B-scan, rows, B-scans; at least (64, 96, 1).
        lesions: kinds to put in, each as often as it is named: "IRF", "SRF", "PED", "drusen".
        difficulty: in [0, 1].
        seed: of everything random.

    Returns:
        With structures "bruchs_membrane", the row of the membrane per A-scan, float (A-scans, B-scans), and "retina",
        the mask from the inner surface to the membrane.

    Raises:
        ValueError: unknown lesion, difficulty outside [0, 1], or a shape too small.
    """
    check_lesions(lesions, KINDS)
    check_range("difficulty", difficulty, 0, 1)
    width, height, depth = shape
    check_range("A-scans", width, 64)
    check_range("rows", height, 96)
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, width)[:, None]
    y = np.linspace(-1, 1, depth)[None] if depth > 1 else np.zeros((1, 1))
    membrane = height * (0.72 + 0.05 * rng.uniform(-1, 1) * x - rng.uniform(0.02, 0.07) * (x**2 + 0.5 * y**2))
    membrane = membrane + 0.4 * smooth_noise(rng, (width, depth), (width / 6, 3))
    thickness = height * 0.30 * (1 + 0.06 * smooth_noise(rng, (width, depth), (width / 4, 6)))
    pit = np.exp(-((x - rng.uniform(-0.15, 0.15)) ** 2 + (y - rng.uniform(-0.1, 0.1)) ** 2) / 0.05)
    rise, fluid, under = _elevations(rng, lesions, (width, height, depth), difficulty)

    rows = np.arange(height)[None, :, None]
    image = np.full(shape, _VITREOUS)
    top = membrane - thickness * (1 - 0.45 * pit) - rise - fluid - under
    for fraction, brightness in _LAYERS:
        above = np.minimum(fraction, 1 - 0.45 * pit) if fraction > 0.5 else fraction
        edge = membrane - thickness * above - rise - fluid - under
        image = np.where(rows >= edge[:, None], brightness, image)
    label = np.zeros(shape, np.uint8)
    epithelium = membrane - thickness * _EPITHELIUM[0] - rise - under
    in_fluid = (rows >= (epithelium - fluid)[:, None]) & (rows < epithelium[:, None]) & (fluid > 0.5)[:, None]
    image[in_fluid], label[in_fluid] = _FLUID, KINDS["SRF"]
    bottom = membrane - rise - under
    image = np.where(rows >= epithelium[:, None], _EPITHELIUM[1], image)
    for lift, kind, brightness in ((rise, "PED", 0.22), (under, "drusen", 0.55)):
        inside = (rows >= bottom[:, None]) & (rows < membrane[:, None]) & (lift > 0.5)[:, None]
        image = np.where(inside, brightness + 0.25 * difficulty, image)
        label[inside] = KINDS[kind]
    choroid = _CHOROID * np.exp(-np.maximum(rows - membrane[:, None], 0) / (0.14 * height))
    choroid = choroid * (1 + 0.35 * smooth_noise(rng, shape, (6, 5, 2)))
    image = np.where((rows >= membrane[:, None]) & (label == 0), choroid, image)
    retina = (rows >= top[:, None]) & (rows < membrane[:, None])
    _add_cysts(rng, lesions, image, label, membrane - 0.45 * thickness - rise - fluid - under, difficulty)
    image = _photograph(rng, image, top, difficulty)
    affine = np.diag([0.012, -0.004, 0.12, 1.0])  # A-scans to the right, rows to the back, B-scans upward
    structures = {"bruchs_membrane": membrane.astype(np.float32), "retina": retina.astype(np.uint8)}
    return Phantom(image, label, KINDS, affine, structures)


def _elevations(
    rng: np.random.Generator, lesions: Sequence[str], shape: tuple[int, int, int], difficulty: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how far detachments, subretinal fluid and drusen lift what lies above them, in rows."""
    width, height, depth = shape
    lifts = {kind: np.zeros((width, depth)) for kind in ("PED", "SRF", "drusen")}
    sizes = {"PED": (0.13, 0.10), "SRF": (0.16, 0.08), "drusen": (0.035, 0.035)}
    for kind in lesions:
        if kind == "IRF":
            continue
        half_width, lift = (value * (1 - 0.5 * difficulty) * rng.uniform(0.8, 1.2) for value in sizes[kind])
        for _ in range(5 if kind == "drusen" else 1):
            center = (rng.uniform(0.2, 0.8) * width, rng.uniform(0.3, 0.7) * depth)
            radii = (half_width * width, max(2.0, half_width * depth * 1.5))
            dome = np.maximum(0, 1 - ellipsoid_distance((width, depth), center, radii) ** 2)
            lifts[kind] = np.maximum(
                lifts[kind], lift * height * np.sqrt(dome) if kind != "drusen" else lift * height * dome
            )
    return lifts["PED"], lifts["SRF"], lifts["drusen"]


def _add_cysts(
    rng: np.random.Generator,
    lesions: Sequence[str],
    image: np.ndarray,
    label: np.ndarray,
    middle: np.ndarray,
    difficulty: float,
) -> None:
    """Put groups of dark cysts with a bright rim into the inner retina, in place."""
    width, height, depth = image.shape
    for _ in range(sum(kind == "IRF" for kind in lesions)):
        first, slice_ = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * (depth - 1)
        for _ in range(4):
            a_scan = float(np.clip(first + rng.uniform(-0.1, 0.1) * width, 4, width - 5))
            row = middle[int(a_scan), round(slice_)] + rng.uniform(-0.03, 0.03) * height
            size = rng.uniform(0.6, 1.0) * (1 - 0.5 * difficulty)
            radii = (0.055 * size * width, 0.05 * size * height, max(1.5, 0.12 * size * depth))
            distance = ellipsoid_distance(image.shape, (a_scan, row, slice_), radii)
            rim = (distance < 1.25) & (distance >= 1) & (label == 0)
            image[rim] += 0.08
            inside = (distance < 1) & (label == 0)
            image[inside], label[inside] = _FLUID + 0.1 * difficulty, KINDS["IRF"]


def _photograph(rng: np.random.Generator, image: np.ndarray, top: np.ndarray, difficulty: float) -> np.ndarray:
    """Return the reflectivity as a camera shows it: blurred, shadowed by vessels, speckled, 8 bits."""
    width, height, depth = image.shape
    rows = np.arange(height)[None, :, None]
    shadow = np.ones((width, depth))
    for _ in range(rng.integers(2, 5)):
        path = rng.uniform(0.05, 0.95) * width + rng.uniform(-0.2, 0.2) * width * np.linspace(-1, 1, depth)
        distance = np.arange(width)[:, None] - path[None]
        shadow *= 1 - rng.uniform(0.3, 0.6) * np.exp(-((distance / rng.uniform(1.5, 3)) ** 2))
    lit = np.where(rows >= (top + 0.03 * height)[:, None], shadow[:, None], 1.0)
    fading = 1 + 0.15 * smooth_noise(rng, (width, depth), (width / 3, 4))[:, None]
    smooth = ndimage.gaussian_filter(image * lit * fading, (0.6, 0.6, 0))
    looks = 14 - 10 * difficulty  # averaged frames: fewer give more speckle
    speckle = ndimage.gaussian_filter(rng.gamma(looks, 1 / looks, image.shape), (0.7, 0.45, 0))
    noisy = smooth * (1 + 1.6 * (speckle - 1)) + 0.012 * (1 + difficulty) * rng.standard_normal(image.shape)
    return np.clip(np.sqrt(np.clip(noisy, 0, None)) * 225, 0, 255).astype(np.uint8)
