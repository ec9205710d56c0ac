"""One reader for every file: it looks at the header first, and hands the file to the reader of its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader, ITKReader, NibabelReader, NumpyReader

from monai_anomaly.data.claims import check_claim
from monai_anomaly.data.oct_readers import DicomOCTReader, SpectralisReader, TopconReader
from monai_anomaly.data.readers import BScanFolderReader, ImageFileReader
from monai_anomaly.data.suffixes import IMAGE_SUFFIXES, suffix_of


class FileReader(ImageReader):
    """Read NIfTI, MHD, MHA, NRRD, Heidelberg .vol and .e2e, Topcon .fda, DICOM, pictures, or a folder of slices.

    MONAI's NibabelReader and ITKReader do the reading where they know the format, `ImageFileReader` for pictures; a
    folder holds either DICOM slices or pictures, one B-scan each. Files that claim more data than they have are
    refused before memory is taken, and no other reader is tried on them.

    Raises:
        ValueError: a broken file, or an unknown suffix.
        ImportError: eyepy or pydicom is needed and not installed.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return True: a name it does not know is an error of its own."""
        del filename
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Path:
        """Return the file; `get_data` opens it, since LoadImage would try other readers after an error here."""
        del kwargs
        return Path(str(data if isinstance(data, (str, Path)) else data[0]))

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array and its metadata."""
        check_claim(img)
        reader = _reader_of(img)
        try:
            found: tuple[np.ndarray, dict[str, Any]] = reader.get_data(reader.read(str(img)))
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            if isinstance(reader, (NibabelReader, ITKReader)):
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                msg = f"{img.name} cannot be read ({reason}); expected a whole file: copy or export it again."
                raise ValueError(msg) from error
            raise
        return found


def _reader_of(file: Path) -> ImageReader:
    if not file.exists():
        msg = f"{file.name} does not exist; expected a volume or a folder of slices."
        raise ValueError(msg)
    if file.is_dir():
        pictures = any(path.suffix.lower() in IMAGE_SUFFIXES for path in file.iterdir())
        return BScanFolderReader() if pictures else ITKReader()
    suffix = suffix_of(file.name).lower() or file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageFileReader()
    if suffix in {".npy", ".npz"}:
        return NumpyReader()
    if suffix in {".nii", ".nii.gz"}:
        return NibabelReader()
    if suffix in {".mhd", ".mha", ".nrrd"}:
        return ITKReader()
    for reader in (SpectralisReader(), TopconReader(), DicomOCTReader()):
        if reader.verify_suffix(file.name):
            return reader
    msg = f"{file.name} is of no known kind; expected NIfTI, MHD, NRRD, .vol, .e2e, .fda, DICOM or a picture."
    raise ValueError(msg)
