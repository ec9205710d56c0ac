"""Which files are images, and which are volumes."""

from __future__ import annotations

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
OCT_SUFFIXES = (".vol", ".e2e", ".fda")
VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd", ".dcm", *OCT_SUFFIXES)


def suffix_of(name: str) -> str:
    """Return the known image or volume suffix a file name ends in, as it stands there, or an empty string."""
    known = next((suffix for suffix in (*VOLUME_SUFFIXES, *IMAGE_SUFFIXES) if name.lower().endswith(suffix)), "")
    return name[len(name) - len(known) :] if known else ""
