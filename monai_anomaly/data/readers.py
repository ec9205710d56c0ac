"""Readers for what MONAI's own do not keep whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys
from PIL import Image, UnidentifiedImageError

from monai_anomaly.data.suffixes import IMAGE_SUFFIXES, suffix_of

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
