"""Inspection of NIfTI files, beside nibabel opening them: time, and memory as their number grows."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_anomaly.inspection import inspect_dataset

SIZES = (1_000, 10_000)
SHAPE = (16, 16, 8)


def open_all(folder: Path) -> float:
    """Open every file with nibabel, ask for shape, affine and type, and return the seconds it took."""
    start = time.perf_counter()
    for file in sorted(folder.iterdir()):
        image = nib.load(file)
        _ = image.shape, image.affine, image.get_data_dtype()
    return time.perf_counter() - start


def inspect_all(folder: Path, out: Path, *, headers_only: bool) -> float:
    """Inspect the files as the command does, and return the seconds it took."""
    start = time.perf_counter()
    inspect_dataset(folder, out, headers_only=headers_only)
    return time.perf_counter() - start


def peak() -> float:
    """Return the largest memory so far of this process and of its workers, in MiB."""
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return float(max(own, workers)) / 1024


def main() -> None:
    """Print a line for each number of files."""
    rng = np.random.default_rng(0)
    for count in SIZES:
        with tempfile.TemporaryDirectory() as place:
            folder, out = Path(place) / "data", Path(place) / "out"
            folder.mkdir()
            for number in range(count):
                array = rng.integers(0, 900, SHAPE).astype(np.int16)
                (folder / f"{number:05d}.nii").write_bytes(nib.Nifti1Image(array, np.eye(4)).to_bytes())
            times = [
                [
                    open_all(folder),
                    inspect_all(folder, out, headers_only=True),
                    inspect_all(folder, out, headers_only=False),
                ]
                for _ in range(3)
            ]
            plain, headers, pixels = (min(column) for column in zip(*times, strict=True))
            print(
                f"{count} files of {' x '.join(map(str, SHAPE))}: nibabel {plain:.2f} s; headers {headers:.2f} s, "
                f"{headers / plain:.2f} of it; with pixels {pixels:.2f} s, {pixels / plain:.2f}; peak {peak():.0f} MiB"
            )


if __name__ == "__main__":
    main()
