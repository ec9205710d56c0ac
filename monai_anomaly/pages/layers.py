"""Images, maps and outlines as a browser takes them: eight bits, thinned, and as text."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import LoadImage
from monai.utils import convert_to_tensor
from PIL import Image

from monai_anomaly.checks import check_same_grid
from monai_anomaly.data.file_reader import FileReader
from monai_anomaly.data.readers import ImageFileReader
from monai_anomaly.data.suffixes import IMAGE_SUFFIXES
from monai_anomaly.evaluation.figures import rows_run_up

PLANES = ("sagittal", "coronal", "axial")


def load(file: Path) -> MetaTensor:
    """Return an image (C, H, W) or a volume (C, I, J, K).

    Raises:
        FileNotFoundError: it is not there any more.
    """
    if not file.exists():
        msg = f"{file.name} is not where the run found it; move it back, or run again."
        raise FileNotFoundError(msg)
    reader = ImageFileReader() if file.suffix.lower() in IMAGE_SUFFIXES else FileReader()
    return LoadImage(reader=reader, ensure_channel_first=True, image_only=True)(file)


def load_labels(files: Sequence[Path]) -> MetaTensor | None:
    """Return label files of one case as one, None where there is none."""
    labels = [load(file)[:1] for file in files]
    if not labels:
        return None
    whole = labels[0]
    for label in labels[1:]:
        whole = whole.maximum(label)
    return whole


def eight_bits(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values from low to high as 0 to 255; NaN as 0."""
    scaled = (np.nan_to_num(array.astype(np.float32), nan=low) - low) * (255 / max(high - low, 1e-12))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def outlines(labels: np.ndarray, axis: int | None) -> np.ndarray:
    """Return 1 on the inner border of every class, in the planes across an axis; integers above 0 are classes."""
    axes = [one for one in range(labels.ndim) if one != axis]
    border = np.zeros(labels.shape, bool)
    for one in axes:
        for step in (1, -1):
            shifted = np.roll(labels, step, one)
            edge = [slice(None)] * labels.ndim
            edge[one] = slice(0, 1) if step == 1 else slice(-1, None)
            shifted[tuple(edge)] = 0
            border |= shifted != labels
    return (border & (labels > 0)).astype(np.uint8)


class VolumeLayers:
    """The layers of a volume on one thinned grid, as gzipped NIfTI in base64.

    Args:
        image: (C, I, J, K) with its affine.
        slice_axis: voxel axis slices follow one another along.
        max_side: voxels along a side at most; larger ones are thinned by a whole factor.
    """

    def __init__(self, image: MetaTensor, slice_axis: int, max_side: int) -> None:
        self.image, self.slice_axis = image, slice_axis
        self.factors = [1 if axis == slice_axis else -(-size // max_side) for axis, size in enumerate(image.shape[1:])]
        affine = np.asarray(image.affine, dtype=float)
        shift = np.array([(factor - 1) / 2 for factor in self.factors])
        self.affine = affine.copy()
        self.affine[:3, :3] = affine[:3, :3] * self.factors
        self.affine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ shift

    def described(self) -> dict[str, Any]:
        """Return what the viewer needs to know of the grid: plane, number of slices, their places in mm."""
        direction = np.abs(self.affine[:3, self.slice_axis])
        center = np.array(
            [(size // factor - 1) / 2 for size, factor in zip(self.image.shape[1:], self.factors, strict=True)]
        )
        places = []
        for index in (0, 1):
            center[self.slice_axis] = index
            places.append((self.affine @ [*center, 1])[:3])
        plane = PLANES[int(direction.argmax())]
        count = int(self.image.shape[1 + self.slice_axis])
        return {"plane": plane, "count": count, "first": list(places[0]), "step": list(places[1] - places[0])}

    def picture(self) -> str:
        """Return the image, its channels' mean, from its darkest to its 99.8th percentile."""
        array = self._means(convert_to_tensor(self.image).float().mean(0).numpy())
        low, high = np.nanpercentile(array, (0.2, 99.8))
        return self._text(eight_bits(array, low, high))

    def glance(self, index: int) -> np.ndarray:
        """Return a slice as a small picture, (H, W) of 0 to 255, as the viewer turns it."""
        plane = np.moveaxis(convert_to_tensor(self.image).float().mean(0).numpy(), self.slice_axis, 0)[index].T
        plane = plane[::-1] if rows_run_up(self.image.affine, self.slice_axis) else plane
        plane = np.nan_to_num(plane)
        return eight_bits(plane, *np.percentile(plane, (0.2, 99.8)))

    def values(self, anomaly_map: MetaTensor) -> dict[str, Any]:
        """Return a map, its range, and where its highest values start."""
        check_same_grid("The map", self.image, anomaly_map)
        array = self._largest(convert_to_tensor(anomaly_map)[0].float().numpy())
        known = _range(array)
        if not known:
            return {"map": None}
        scale = max(known["high"] - known["low"], 1e-12) / 255
        return {"map": self._text(eight_bits(array, known["low"], known["high"]), (scale, known["low"])), **known}

    def outlines(self, labels: MetaTensor, name: str) -> str:
        """Return the outlines of a label volume."""
        check_same_grid(name, self.image, labels)
        return self._text(outlines(self._largest(convert_to_tensor(labels)[0].numpy()), self.slice_axis))

    def _blocks(self, array: np.ndarray) -> np.ndarray:
        for axis, factor in reversed(list(enumerate(self.factors))):
            size = array.shape[axis] // factor * factor
            array = array.take(range(size), axis)
            array = array.reshape(*array.shape[:axis], size // factor, factor, *array.shape[axis + 1 :])
        return array

    def _means(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(_mean(self._blocks(array), (1, 3, 5)))

    def _largest(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(np.fmax.reduce(self._blocks(array), (1, 3, 5)))

    def _text(self, array: np.ndarray, scale: tuple[float, float] = (1.0, 0.0)) -> str:
        volume = nib.Nifti1Image(array, self.affine)
        volume.header.set_slope_inter(*scale)
        volume.header.set_xyzt_units("mm")
        return base64.b64encode(gzip.compress(volume.to_bytes(), 4, mtime=0)).decode("ascii")


class PictureLayers:
    """The layers of an image, as PNG in data addresses.

    Args:
        image: (C, H, W).
        max_side: pixels along a side at most; larger ones are thinned by a whole factor.
    """

    def __init__(self, image: MetaTensor, max_side: int) -> None:
        self.image = image
        self.factor = -(-max(image.shape[1:]) // max_side)

    def described(self) -> dict[str, Any]:
        """Return height and width."""
        return {"height": self.image.shape[1] // self.factor, "width": self.image.shape[2] // self.factor}

    def picture(self) -> str:
        """Return the image, color as color."""
        return _png(self.glance(0))

    def glance(self, index: int) -> np.ndarray:
        """Return the image, (H, W) or (H, W, 3) of 0 to 255."""
        del index
        array = _mean(self._blocks(convert_to_tensor(self.image).float().numpy()), (2, 4))
        array = array[:3] if len(array) >= 3 else array.mean(0, keepdims=True)
        low, high = (0, 255) if 1 < np.nanmax(array) <= 255 else np.nanpercentile(array, (0.2, 99.8))
        found = eight_bits(array, float(low), float(high))
        return found.transpose(1, 2, 0) if len(found) == 3 else found[0]

    def values(self, anomaly_map: MetaTensor) -> dict[str, Any]:
        """Return a map, its range, and where its highest values start."""
        check_same_grid("The map", _bare(self.image), _bare(anomaly_map))
        array = np.fmax.reduce(self._blocks(convert_to_tensor(anomaly_map)[:1].float().numpy()), (2, 4))[0]
        known = _range(array)
        if not known:
            return {"map": None}
        return {"map": _png(eight_bits(array, known["low"], known["high"])), **known}

    def outlines(self, labels: MetaTensor, name: str) -> str:
        """Return the outlines of a label image."""
        check_same_grid(name, _bare(self.image), _bare(labels))
        array = self._blocks(convert_to_tensor(labels)[:1].numpy()).max((2, 4))[0]
        return _png(255 * outlines(array, None))

    def _blocks(self, array: np.ndarray) -> np.ndarray:
        factor = self.factor
        height, width = (size // factor for size in array.shape[1:])
        return array[:, : height * factor, : width * factor].reshape(len(array), height, factor, width, factor)


def _mean(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the mean of the numbers there are, 0 where there are none."""
    known = np.isfinite(array)
    return np.asarray(np.where(known, array, 0).sum(axes) / np.maximum(known.sum(axes), 1))


def _range(array: np.ndarray) -> dict[str, float]:
    """Return the least and largest number, and where the highest start; nothing where there is none."""
    array = array[np.isfinite(array)]
    if not len(array):
        return {}
    low, start, high = np.percentile(array, (0, 97, 100))
    return {"low": float(low), "start": float(start), "high": float(high)}


def _bare(array: MetaTensor) -> Any:
    """Return what has no affine: pictures lie on their pixels."""
    return convert_to_tensor(array, track_meta=False)


def _png(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
