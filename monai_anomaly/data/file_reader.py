"""One reader for every file: it looks at the header first, and hands the file to the reader of its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader, ITKReader, NibabelReader, NumpyReader
from monai.utils import MetaKeys

from monai_anomaly.data.claims import check_claim
from monai_anomaly.data.dicom import check_series, is_dicom, is_oct
from monai_anomaly.data.oct_readers import DicomOCTReader, SpectralisReader, TopconReader
from monai_anomaly.data.readers import BScanFolderReader, ImageFileReader
from monai_anomaly.data.suffixes import IMAGE_SUFFIXES, suffix_of
from monai_anomaly.keys import LATERALITY

_READERS: dict[str, type[ImageReader]] = {
    **dict.fromkeys(IMAGE_SUFFIXES, ImageFileReader),
    **dict.fromkeys((".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh"), NibabelReader),
    **dict.fromkeys((".mhd", ".mha", ".nrrd", ".nhdr", ".ima"), ITKReader),
    **dict.fromkeys((".npy", ".npz"), NumpyReader),
    **dict.fromkeys(SpectralisReader.suffixes, SpectralisReader),
    **dict.fromkeys(TopconReader.suffixes, TopconReader),
}
_TEXTS = (MetaKeys.SPACE, LATERALITY, "filename_or_obj")


class FileReader(ImageReader):
    """Read NIfTI, MHD, MHA, NRRD, Heidelberg .vol and .e2e, Topcon .fda, DICOM, pictures, or a folder of slices.

    MONAI's NibabelReader and ITKReader do the reading where they know the format, `ImageFileReader` for pictures; a
    folder holds either DICOM slices or pictures, one B-scan each. Files that claim more data than they have are
    refused before memory is taken, and no other reader is tried on them. Several files become channels. Of a header's
    texts none is taken over: some hold the patient's name.

    Raises:
        ValueError: a broken file, an unknown suffix, files of one image on different grids, or a folder with slices of
            several series, or at uneven distances (with pydicom).
        ImportError: eyepy or pydicom is needed and not installed.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return True: a name it does not know is an error of its own."""
        del filename
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[Path]:
        """Return the files; `get_data` opens them, since LoadImage would try other readers after an error here."""
        del kwargs
        return [Path(str(name)) for name in ([data] if isinstance(data, (str, Path)) else data)]

    def get_data(self, img: list[Path]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array and its metadata; several files stacked as channels, the last axis."""
        first, meta = _read(img[0])
        if len(img) == 1:
            return first, meta
        arrays = [first]
        for path in img[1:]:
            array, other = _read(path)
            apart = np.shape(other[MetaKeys.AFFINE]) != np.shape(meta[MetaKeys.AFFINE]) or not np.allclose(
                other[MetaKeys.AFFINE], meta[MetaKeys.AFFINE], atol=1e-3
            )
            if array.shape != first.shape or apart:
                msg = f"{path.name} lies on another grid than {img[0].name}; resample one to the other."
                raise ValueError(msg)
            arrays.append(array)
        return np.stack(arrays, axis=-1), {**meta, MetaKeys.ORIGINAL_CHANNEL_DIM: -1}


def _read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    check_claim(path)
    reader = _reader_of(path)
    try:
        array, meta = reader.get_data(reader.read(str(path)))
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        if not isinstance(reader, (NibabelReader, ITKReader)):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        msg = f"{path.name} cannot be read ({reason}); expected a whole file: copy or export it again."
        raise ValueError(msg) from error
    return np.asarray(array), {key: value for key, value in meta.items() if key in _TEXTS or not _is_text(key, value)}


def _is_text(key: Any, value: Any) -> bool:
    """Whether an entry of a header is words, which may be anybody's name; DICOM's tags have a bar in their key."""
    words = isinstance(value, (str, bytes)) or (isinstance(value, np.ndarray) and value.dtype.kind in "SU")
    return words or "|" in str(key)


def _reader_of(file: Path) -> ImageReader:
    if not file.exists():
        msg = f"{file.name} does not exist; expected a file or a folder of slices."
        raise ValueError(msg)
    if file.is_dir():
        if any(path.suffix.lower() in IMAGE_SUFFIXES for path in file.iterdir()):
            return BScanFolderReader()
        check_series(file)
        return ITKReader()
    if is_dicom(file):
        return DicomOCTReader() if is_oct(file) else ITKReader()
    reader = _READERS.get(suffix_of(file.name).lower() or file.suffix.lower())
    if reader is None:
        msg = f"{file.name} is of no known kind; expected NIfTI, MHD, NRRD, .vol, .e2e, .fda, DICOM or a picture."
        raise ValueError(msg)
    return reader()
