"""Abdominal CT volumes in Hounsfield units: body, spine, liver with vessels, spleen, kidneys, hypodense lesions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from monai_anomaly.checks import check_range
from monai_anomaly.data.phantoms.phantom import Phantom, check_lesions, ellipsoid_distance, smooth_noise

KINDS = {"tumor": 2}
"""As in LiTS, where 1 is the liver."""


def liver_ct_phantom(
    shape: tuple[int, int, int] = (128, 112, 48),
    lesions: Sequence[str] = (),
    difficulty: float = 0.3,
    seed: int = 0,
) -> Phantom:
    """Return an abdominal CT in RAS+ orientation, int16 HU, 3 mm voxels.

    Args:
        shape: voxels to the right, to the front, upward; at least (48, 48, 8).
        lesions: "tumor", as often as it is named.
        difficulty: in [0, 1].
        seed: of everything random.

    Returns:
        With the structure "liver", a mask that includes the tumors.

    Raises:
        ValueError: unknown lesion, difficulty outside [0, 1], or a shape too small.
    """
    check_lesions(lesions, KINDS)
    check_range("difficulty", difficulty, 0, 1)
    check_range("voxels", min(shape[:2]), 48)
    check_range("slices", shape[2], 8)
    rng = np.random.default_rng(seed)
    size = np.array(shape, dtype=float)
    middle = (size - 1) / 2
    long = 4 * size[2]  # organs that pass through the whole volume

    def organ(right: float, front: float, up: float, radii: Sequence[float], roughness: float = 0.0) -> np.ndarray:
        spot = middle + size * (right, front, up) + rng.uniform(-0.01, 0.01, 3) * size
        distance = ellipsoid_distance(shape, spot, size * np.asarray(radii) * (1 + 0.05 * rng.uniform(-1, 1, 3)))
        return distance * (1 + roughness * smooth_noise(rng, shape, 8)) if roughness else distance

    body = ellipsoid_distance(shape, middle, (0.45 * size[0], 0.40 * size[1], long))
    image = np.where(body < 1, -95.0, -1000.0)
    image = np.where(body < 0.90, 50 + 6 * smooth_noise(rng, shape, 3), image)
    image = np.where(body < 0.80, -70 + 25 * smooth_noise(rng, shape, 5), image)
    for right, front, radii, value in (
        (-0.26, 0.02, (0.08, 0.12, 0.4), 110),
        (-0.14, -0.16, (0.06, 0.08, 0.3), 150),
        (0.16, -0.16, (0.06, 0.08, 0.3), 150),
        (-0.12, 0.16, (0.12, 0.1, 0.35), 30),
    ):
        image = np.where((organ(right, front, 0, radii, 0.05) < 1) & (body < 0.84), value, image)
    liver = (
        np.minimum(organ(0.18, 0.03, 0.05, (0.22, 0.25, 0.55), 0.08), organ(0.02, 0.12, 0.1, (0.22, 0.13, 0.4), 0.08))
        < 1
    )
    liver &= body < 0.84
    tissue = 105 + 4 * smooth_noise(rng, shape, 2)
    trees = np.abs(smooth_noise(rng, shape, (7, 7, 7))) < 0.05
    image = np.where(liver, np.where(ndimage.binary_erosion(liver, iterations=2) & trees, 155, tissue), image)
    for right, front, radii, value in (
        (0, -0.22, (0.07, 0.08, 4), 350),
        (0, -0.30, (0.03, 0.07, 4), 420),
        (-0.03, -0.10, (0.025, 0.028, 4), 170),
    ):
        image = np.where(organ(right, front, 0, radii) < 1, value, image)
    label = np.zeros(shape, np.uint8)
    places = np.argwhere(ndimage.binary_erosion(liver, iterations=3))
    for _ in lesions:
        radii = rng.uniform(0.04, 0.075, 3) * size[0] * (1 - 0.4 * difficulty)
        radii[2] = max(1.5, radii[2] * 0.8)
        distance = ellipsoid_distance(shape, places[rng.integers(len(places))], radii, rng.uniform(0, np.pi))
        distance = distance * (1 + 0.15 * smooth_noise(rng, shape, 4))
        weight = np.clip((1.15 - distance) / 0.3, 0, 1) * liver
        image = image - weight * (75 - 50 * difficulty)
        label[(distance < 1) & liver] = KINDS["tumor"]
    image = ndimage.gaussian_filter(image, (0.5, 0.5, 0.3))
    image = image + ndimage.gaussian_filter(rng.standard_normal(shape), 0.6) * 22 * (1 + 2 * difficulty)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -3.0 * middle
    return Phantom(
        np.clip(image, -1024, 3000).astype(np.int16), label, KINDS, affine, {"liver": liver.astype(np.uint8)}
    )
