"""NSA's patches beside OpenCV's seamlessClone. ``python benchmarks/poisson_blend.py``."""

from __future__ import annotations

import cv2
import measure
import numpy as np

from monai_anomaly.transforms import poisson_blend


def compare(height: int, width: int, channels: int) -> tuple[str, str]:
    rng, shape = np.random.default_rng(0), (height, width, channels)
    target, patch = (cv2.GaussianBlur(rng.integers(0, 256, shape).astype(np.uint8), (0, 0), 2) for _ in range(2))
    target, patch = target.reshape(shape), patch.reshape(shape)
    # OpenCV takes three channels and a frame around the mask
    three = [np.repeat(np.pad(x, ((2, 2), (2, 2), (0, 0)), "edge"), 3 // channels, 2) for x in (patch, target)]
    mask, ones = np.pad(np.full((height, width), 255, np.uint8), 2), np.ones((height, width))
    center = (2 + width // 2, 2 + height // 2)
    times = measure.fastest(
        {
            "ours": lambda: [poisson_blend(target, patch, ones) for _ in range(5)],
            "opencv": lambda: [cv2.seamlessClone(*three, mask, center, cv2.MIXED_CLONE) for _ in range(5)],
        },
        5,
    )
    ours, theirs = (200 * times[name] for name in ("ours", "opencv"))
    size = f"{height} x {width} x {channels}"
    return size, f"OpenCV {theirs:.1f} ms; ours {ours:.2f} ms, {theirs / ours:.1f}x"


def main() -> None:
    cv2.setNumThreads(1)
    sizes = ((40, 60, 1), (150, 200, 1), (150, 200, 3), (400, 400, 3))
    measure.table("A patch blended in, mixed gradients", [compare(*size) for size in sizes])


if __name__ == "__main__":
    main()
