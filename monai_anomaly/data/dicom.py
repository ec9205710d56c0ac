"""DICOM files and folders: slices of one volume, or a volume in each file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import optional_import

_OCT_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
_TAGS = ["NumberOfFrames", "SOPClassUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient"]


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix, or, without a suffix, by the mark at its byte 128."""
    if path.suffix or not path.is_file():
        return path.suffix.lower() == ".dcm"
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_header(path: Path) -> Any:
    """Return the few fields that tell what a file is, None without pydicom or where it cannot be read."""
    pydicom, found = optional_import("pydicom")
    if not found:
        return None
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, reading the volume will say
        return None


def is_oct(path: Path) -> bool:
    """Whether a file holds Ophthalmic Tomography, frames of B-scans."""
    header = read_header(path)
    return header is not None and str(header.get("SOPClassUID", "")) == _OCT_CLASS


def volumes_of(folder: Path) -> tuple[Path, ...]:
    """Return the DICOM volumes of a folder: its files of many frames, else the folder itself, a series of slices.

    Empty without DICOM files. Without pydicom, which looks into the files, every such folder is a series.
    """
    files = [path for path in sorted(folder.iterdir()) if is_dicom(path)]
    headers = ((path, read_header(path)) for path in files)
    framed = tuple(
        path for path, header in headers if header is not None and int(header.get("NumberOfFrames") or 1) > 1
    )
    return framed or ((folder,) if files else ())


def check_series(folder: Path) -> None:
    """Check that a folder's DICOM files are the slices of one volume, none of them missing.

    Raises:
        ValueError: slices of several series, or at uneven distances.
    """
    headers = [
        header for path in sorted(folder.iterdir()) if is_dicom(path) and (header := read_header(path)) is not None
    ]
    series = {str(header.get("SeriesInstanceUID", "")) for header in headers}
    if len(series) > 1:
        msg = f"{folder.name} holds slices of {len(series)} series; put each into a folder of its own."
        raise ValueError(msg)
    known = [header for header in headers if "ImagePositionPatient" in header and "ImageOrientationPatient" in header]
    if len(known) < 3:
        return
    turn = np.array(known[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(turn[:3], turn[3:])
    places = sorted(float(np.dot(normal, np.array(header.ImagePositionPatient, dtype=float))) for header in known)
    steps = [after - before for before, after in pairwise(places)]
    usual = float(np.median(steps))
    if usual <= 0 or max(steps) > 1.1 * usual or min(steps) < 0.9 * usual:
        span = f"{min(steps):.3g} to {max(steps):.3g} mm, mostly {usual:.3g}"
        msg = f"{folder.name} has slices at uneven distances ({span}): some are missing, or there twice; export anew."
        raise ValueError(msg)
