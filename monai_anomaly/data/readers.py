"""Readers for what MONAI's own do not keep whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys
from PIL import Image, UnidentifiedImageError
from scipy.io import loadmat

from monai_anomaly.data.claims import check_claim
from monai_anomaly.data.matlab_file import check_matlab
from monai_anomaly.data.suffixes import IMAGE_SUFFIXES, suffix_of
from monai_anomaly.keys import OCT_AXES

_PLAIN_MODES = {"1": "L", "LA": "L", "P": "RGB", "CMYK": "RGB", "RGBA": "RGB", "YCbCr": "RGB"}


class ImageFileReader(ImageReader):
    """Read a 2-D image file as (H, W) or (H, W, C) with the depth it was stored in.

    MONAI's PILReader gives (W, H) and squeezes 16-bit color through 8 bits; its ITKReader shows what is left of a
    truncated JPEG. This one keeps rows first, keeps 16-bit and float PNG and TIFF as they are, and refuses broken
    files.

    Raises:
        OSError: the file is truncated or no image.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether all names end in an image suffix."""
        names = [filename] if isinstance(filename, (str, Path)) else filename
        return all(suffix_of(str(name)).lower() in IMAGE_SUFFIXES for name in names)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[Path]:
        """Return the files; `get_data` opens them, since LoadImage would try other readers after an error here."""
        del kwargs
        names = [data] if isinstance(data, (str, Path)) else list(data)
        return [Path(str(name)) for name in names]

    def get_data(self, img: list[Path]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array, several files stacked as channels, and its metadata."""
        arrays = [_read_array(path) for path in img]
        data = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: np.eye(4),
            MetaKeys.ORIGINAL_AFFINE: np.eye(4),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(data.shape[:2]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if data.ndim == 2 else -1,
            "filename_or_obj": str(img[0]),
        }
        return data, meta


def _read_array(path: Path) -> np.ndarray:
    check_claim(path)
    try:
        with path.open("rb") as file, Image.open(file) as image:
            if not any("16" in str(tile[3]) for tile in image.tile):  # Pillow squeezes deep color through 8 bits
                image.load()
                plain = image.convert(_PLAIN_MODES[image.mode]) if image.mode in _PLAIN_MODES else image
                return np.array(plain)
    except UnidentifiedImageError:
        pass  # some deep TIFF files
    except Exception as error:
        raise _unreadable(path, error) from error
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise _unreadable(path, "no known image format")
    return array[..., ::-1].copy() if array.ndim == 3 and array.shape[2] == 3 else array


def _unreadable(path: Path, reason: object) -> OSError:
    return OSError(f"{path.name} cannot be read ({reason}); expected a whole image file: copy or export it again.")


class BScanFolderReader(ImageReader):
    """Read a folder of pictures, one B-scan each and numbered by name, as a volume (rows, A-scans, B-scans).

    So RESC keeps its volumes: ``<case>.img/1.bmp`` to ``128.bmp``. The order is that of the numbers, not of the text.
    Of color the mean remains. Spacing is not in the files: the affine is the identity.

    Raises:
        ValueError: no pictures, names without numbers, a number missing or twice, or pictures of different sizes.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether it is a folder."""
        return isinstance(filename, (str, Path)) and Path(filename).is_dir()

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Path:
        """Return the folder; `get_data` opens it."""
        del kwargs
        return Path(str(data if isinstance(data, (str, Path)) else data[0]))

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array and its metadata."""
        scans = [_gray(_read_array(path)) for path in _numbered(img)]
        sizes = {scan.shape for scan in scans}
        if len(sizes) > 1:
            listed = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
            msg = f"{img.name} holds pictures of different sizes ({listed}); expected B-scans of one volume."
            raise ValueError(msg)
        return _volume(np.stack(scans, axis=2), img)


class MatVolumeReader(ImageReader):
    """Read a field of a MATLAB file as a volume (rows, A-scans, B-scans).

    So Duke DME keeps its volumes: the field "images" of ``Subject_01.mat``, and its labels, "manualFluid1", which hold
    a number per fluid and NaN where nobody labeled.

    Args:
        field: of the file.
        labels: make it a label volume, uint8: 1 above 0, 0 else, 255 in B-scans that nobody labeled. NaN are 0.
        labeled_by: field, B-scans last, that is NaN all over in those (Duke DME: "manualLayers1"); None for the labels.

    Raises:
        ValueError: no such field, or not a volume.
    """

    def __init__(self, field: str = "images", labels: bool = False, labeled_by: str | None = None) -> None:
        super().__init__()
        self.field, self.labels, self.labeled_by = field, labels, labeled_by

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether the name ends in .mat."""
        return isinstance(filename, (str, Path)) and str(filename).lower().endswith(".mat")

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Path:
        """Return the file; `get_data` opens it."""
        del kwargs
        return Path(str(data if isinstance(data, (str, Path)) else data[0]))

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array and its metadata."""
        try:
            fields = [self.field, self.labeled_by or self.field]
            check_matlab(img, fields)
            content = loadmat(img, variable_names=fields)
        except Exception as error:
            msg = (
                f"{img.name} cannot be read ({type(error).__name__}: {error}); expected a whole MATLAB file (-v6, -v7)."
            )
            raise ValueError(msg) from error
        array = content.get(self.field)
        if array is None or array.ndim != 3:
            came = "no such field" if array is None else f"{array.ndim} dimensions"
            msg = f"{img.name}: expected a volume in the field {self.field!r}, got {came}."
            raise ValueError(msg)
        volume = np.asarray(array)
        if self.labels:
            told = content.get(self.labeled_by or self.field)
            if told is None or told.shape[-1] != volume.shape[-1]:
                msg = f"{img.name}: expected {volume.shape[-1]} B-scans in the field {self.labeled_by!r}, got others."
                raise ValueError(msg)
            unlabeled = np.isnan(np.asarray(told, dtype=float)).all((0, 1))
            volume = (np.nan_to_num(volume.astype(float)) > 0).astype(np.uint8)
            volume[..., unlabeled] = 255
        return _volume(volume, img)


def _numbered(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of the numbers in their names."""
    pictures = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    numbers = {path: re.findall(r"\d+", path.stem) for path in pictures}
    nameless = [path.name for path, found in numbers.items() if not found]
    if not pictures or nameless:
        came = f"{nameless[0]!r}" if nameless else "no picture"
        msg = f"{folder.name}: expected pictures numbered by name (1.bmp, 2.bmp, ...), got {came}."
        raise ValueError(msg)
    order = {path: int(found[-1]) for path, found in numbers.items()}
    there = sorted(order.values())
    whole = range(there[0], there[0] + len(there))
    if there != list(whole):
        wrong = sorted(set(whole) - set(there)) or [n for n in there if there.count(n) > 1]
        msg = f"{folder.name}: B-scan {wrong[0]} is missing or there twice; expected each from {there[0]} on once."
        raise ValueError(msg)
    return sorted(pictures, key=order.__getitem__)


def _gray(picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 2:
        return picture
    same = (picture == picture[..., :1]).all()
    return picture[..., 0] if same else picture.mean(2, dtype=np.float32)


def _volume(array: np.ndarray, file: Path) -> tuple[np.ndarray, dict[str, Any]]:
    return array, {
        MetaKeys.AFFINE: np.eye(4),
        MetaKeys.ORIGINAL_AFFINE: np.eye(4),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        OCT_AXES: np.array([0, 1, 2]),
        "filename_or_obj": str(file),
    }
