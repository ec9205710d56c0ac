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
from PIL import Image

from monai_anomaly.data.suffixes import IMAGE_SUFFIXES, suffix_of

_DEEP_SUFFIXES = (".png", ".tif", ".tiff")


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

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[tuple[np.ndarray, str]]:
        """Return arrays and file names."""
        del kwargs
        names = [data] if isinstance(data, (str, Path)) else list(data)
        return [(_read_array(Path(str(name))), str(name)) for name in names]

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array, several files stacked as channels, and its metadata."""
        images = img if isinstance(img, list) else [img]
        arrays = [array for array, _ in images]
        data = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: np.eye(4),
            MetaKeys.ORIGINAL_AFFINE: np.eye(4),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(data.shape[:2]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if data.ndim == 2 else -1,
            "filename_or_obj": images[0][1],
        }
        return data, meta


def _read_array(path: Path) -> np.ndarray:
    if path.suffix.lower() in _DEEP_SUFFIXES:
        array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if array is not None and (array.dtype != np.uint8 or array.ndim == 2):
            return array[..., ::-1].copy() if array.ndim == 3 and array.shape[2] == 3 else array
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in {"1", "P", "CMYK", "LA", "RGBA", "YCbCr"}:
                image = image.convert("L" if image.mode in {"1", "LA"} else "RGB")  # noqa: PLW2901
            return np.array(image)
    except OSError as error:
        msg = f"{path.name} cannot be read ({error}); expected a whole image file: copy or export it again."
        raise OSError(msg) from error
