"""Folders of DICOM files: slices of one volume, or a volume in each file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from monai.utils import optional_import


@lru_cache(maxsize=4096)
def is_series(folder: Path) -> bool:
    """Whether a folder's .dcm files are the slices of one volume; the first file tells by its number of frames.

    Without pydicom, which looks into the file, every folder with .dcm files is a series.
    """
    first = next((path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".dcm"), None)
    if first is None:
        return False
    pydicom, found = optional_import("pydicom")
    if not found:
        return True
    try:
        header = pydicom.dcmread(first, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
    except Exception:  # noqa: BLE001 - whatever is wrong with it, reading the volume will say
        return True
    return int(header.get("NumberOfFrames") or 1) <= 1
