"""Brain MRI volumes: folded gray and white matter, ventricles, skull and scalp, bias field, hyperintense lesions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.data.phantoms.phantom import Phantom, check_lesions, ellipsoid_distance, smooth_noise

KINDS = {"plaque": 1, "tumor": 2}

# brightness of cerebrospinal fluid, gray matter, white matter, lesion, scalp
_CONTRASTS = {"flair": (0.08, 0.58, 0.46, 0.92, 0.85), "t1": (0.12, 0.46, 0.66, 0.36, 0.95)}


def brain_mri_phantom(
    shape: tuple[int, int, int] = (96, 112, 80),
    lesions: Sequence[str] = (),
    difficulty: float = 0.3,
    seed: int = 0,
    *,
    contrast: str = "flair",
    skull: bool = False,
) -> Phantom:
    """Return a brain volume in RAS+ orientation, float32, about 2 mm voxels.

    Args:
        shape: voxels to the right, to the front, upward; at least 32 each.
        lesions: kinds to put in: "plaque" (several small ones beside the ventricles), "tumor".
        difficulty: in [0, 1].
        seed: of everything random.
        contrast: "flair" or "t1".
        skull: leave skull and scalp on.

    Returns:
        With the structure "brain", a mask.

    Raises:
        ValueError: unknown lesion or contrast, difficulty outside [0, 1], or a shape too small.
    """
    check_lesions(lesions, KINDS)
    check_range("difficulty", difficulty, 0, 1)
    check_range("voxels", min(shape), 32)
    fluid, gray, white, bright, scalp = _CONTRASTS[check_option("contrast", contrast, list(_CONTRASTS))]
    rng = np.random.default_rng(seed)
    size = np.array(shape, dtype=float)
    center = (size - 1) / 2 + rng.uniform(-0.01, 0.01, 3) * size
    radii = size * (0.36, 0.40, 0.38) * (1 + 0.04 * rng.uniform(-1, 1, 3))
    head = ellipsoid_distance(shape, center, radii)
    folds = smooth_noise(rng, shape, 3.2)
    fissure = np.exp(-(((np.arange(shape[0]) - center[0]) / 1.2) ** 2))[:, None, None]
    depth = 1 - head - 0.05 * np.maximum(folds, 0) - 0.10 * fissure * (head > 0.45)
    brain = head < 1
    image = np.where(brain, fluid, 0.0)
    image = np.where(brain & (depth > 0.03), gray, image)
    image = np.where(brain & (depth > 0.14 + 0.05 * folds), white, image)
    deep = [
        ellipsoid_distance(shape, center + radii * (s * 0.22, 0.05, -0.05), radii * (0.13, 0.2, 0.18)) for s in (-1, 1)
    ]
    image = np.where(np.minimum(*deep) < 1, gray, image)
    horns = [
        ellipsoid_distance(shape, center + radii * (s * 0.13, 0.05, 0.12), radii * (0.07, 0.42, 0.2), s * 0.25)
        for s in (-1, 1)
    ]
    ventricle = np.minimum(*horns)
    image = np.where(ventricle < 1, fluid, image)
    label = np.zeros(shape, np.uint8)
    inner = brain & (depth > 0.16) & (ventricle > 1.05)
    for kind in lesions:
        for distance in _lesion_distances(
            rng, kind, shape, inner & (ventricle < 3.2 if kind == "plaque" else inner), difficulty
        ):
            marked = (distance < 1) & inner
            weight = np.clip(1.5 - distance, 0, 1) * inner * (1 - 0.55 * difficulty)
            image = image * (1 - weight) + bright * weight
            label[marked] = KINDS[kind]
    image = ndimage.gaussian_filter(image, 0.6)
    if skull:
        image = np.where((head >= 1.09) & (head < 1.2), scalp * (1 + 0.1 * folds), image)
    field = np.exp(0.18 * (0.5 + difficulty) * smooth_noise(rng, shape, 0.4 * size))
    noise = 0.015 * (1 + 3 * difficulty) * rng.standard_normal((2, *shape))
    noisy = np.hypot(image * field * (1 + 0.03 * smooth_noise(rng, shape, 2)) + noise[0], noise[1])  # Rician
    noisy = np.where(head < (1.2 if skull else 1.0), noisy, noisy * 0.3 if skull else 0.0)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -2.0 * center
    return Phantom((noisy * 1000).astype(np.float32), label, KINDS, affine, {"brain": brain.astype(np.uint8)})


def _lesion_distances(
    rng: np.random.Generator, kind: str, shape: tuple[int, int, int], allowed: np.ndarray, difficulty: float
) -> list[np.ndarray]:
    places = np.argwhere(allowed)
    count, radius = (8, 0.028) if kind == "plaque" else (1, 0.13)
    found = []
    for _ in range(count if len(places) else 0):
        radii = np.maximum(radius * min(shape) * rng.uniform(0.7, 1.3, 3) * (1 - 0.3 * difficulty), 1.2)
        wobble = 1 + (0.2 * smooth_noise(rng, shape, 4) if kind == "tumor" else 0.0)
        found.append(
            ellipsoid_distance(shape, places[rng.integers(len(places))], radii, rng.uniform(0, np.pi)) * wobble
        )
    return found
