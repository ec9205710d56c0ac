"""Flattening an OCT volume beside loops over its A-scans. ``python benchmarks/oct_geometry.py``."""

from __future__ import annotations

import cv2
import measure
import numpy as np
import torch
from scipy import ndimage

from monai_anomaly.data.phantoms import oct_phantom
from monai_anomaly.transforms import estimate_bruchs_membrane, retina_mask, shift_a_scans


def by_slices(image: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    result, depth = np.zeros_like(image), len(image)
    for a, b in np.ndindex(shifts.shape):
        shift = int(shifts[a, b])
        first, last = max(shift, 0), depth + min(shift, 0)
        result[first:last, a, b] = image[first - shift : last - shift, a, b]
    return result


def by_roll(image: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    result = np.empty_like(image)
    for a, b in np.ndindex(shifts.shape):
        result[:, a, b] = np.roll(image[:, a, b], shifts[a, b])
    return result


def by_interpolation(image: np.ndarray, shifts: np.ndarray, order: int = 1) -> np.ndarray:
    result = np.empty_like(image)
    for a, b in np.ndindex(shifts.shape):
        result[:, a, b] = ndimage.shift(image[:, a, b], shifts[a, b], order=order)
    return result


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    phantom = oct_phantom((512, 496, 49), ("PED", "SRF"), seed=0)
    image = phantom.image.transpose(1, 0, 2).astype(np.float32)
    rows = phantom.structures["bruchs_membrane"]
    shifts = np.round(np.median(rows) - rows).astype(int)
    tensor, moves = torch.from_numpy(image)[None], torch.from_numpy(shifts)
    assert np.array_equal(shift_a_scans(tensor, moves)[0].numpy(), by_slices(image, shifts))
    packed = np.ascontiguousarray(phantom.image.transpose(1, 0, 2))
    eight_bits = torch.from_numpy(packed)[None]
    times = measure.fastest(
        {
            "8 bits": lambda: shift_a_scans(eight_bits, moves),
            "8 bits, shift": lambda: by_interpolation(packed, shifts, 0),
            "ours": lambda: shift_a_scans(tensor, moves),
            "linear": lambda: shift_a_scans(tensor, moves + 0.5),
            "slices": lambda: by_slices(image, shifts),
            "roll": lambda: by_roll(image, shifts),
            "shift": lambda: by_interpolation(image, shifts + 0.5),
            "membrane": lambda: estimate_bruchs_membrane(tensor),
            "retina": lambda: retina_mask(tensor),
        },
        3,
    )
    whole, part = times["ours"], times["linear"]
    growth = {
        count: measure.fastest({"s": lambda n=count: shift_a_scans(tensor[..., :n], moves[..., :n])}, 3)["s"]
        for count in (12, 24, 49)
    }
    measure.table(
        "496 x 512 x 49, float32, one thread",
        [
            ("flatten, rows given", f"{whole:.3f} s"),
            ("its bytes, read and written", measure.of_memory(2 * image.nbytes, whole)),
            *((f"growth: {count} B-scans", f"{seconds:.3f} s") for count, seconds in growth.items()),
            ("loop of NumPy slices", f"{times['slices']:.3f} s, {times['slices'] / whole:.1f}x"),
            ("loop of np.roll", f"{times['roll']:.3f} s, {times['roll'] / whole:.1f}x"),
            ("flatten by fractions", f"{part:.3f} s"),
            ("loop of scipy.ndimage.shift", f"{times['shift']:.3f} s, {times['shift'] / part:.1f}x"),
            ("8 bits, rows first, flatten", f"{times['8 bits']:.3f} s"),
            ("loop of scipy.ndimage.shift, 0", f"{times['8 bits, shift'] / times['8 bits']:.1f}x"),
            ("estimate the membrane", f"{times['membrane']:.2f} s"),
            ("retina mask, all of it", f"{times['retina']:.2f} s"),
        ],
    )


if __name__ == "__main__":
    main()
