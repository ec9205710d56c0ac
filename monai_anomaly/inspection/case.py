"""One case: its image and its labels, opened once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import torch
from monai.data import ImageReader
from torch.utils.data import Dataset

from monai_anomaly.checks import root_cause
from monai_anomaly.data import FileReader, MatVolumeReader
from monai_anomaly.data.claims import Claim, check_claim
from monai_anomaly.data.suffixes import IMAGE_SUFFIXES, suffix_of
from monai_anomaly.evaluation.figures import rows_run_up
from monai_anomaly.keys import OCT_AXES
from monai_anomaly.transforms import lesion_mask

ERROR, WARNING = "error", "warning"
_CHUNK = 1 << 22
THUMBNAIL = 96
"""Longest side of a picture in the contact sheet, in pixels."""


@dataclass(frozen=True)
class LabelRules:
    """What label files may hold, see `monai_anomaly.data.label_rules`, and how to read MATLAB's."""

    values: Sequence[int] | None = None
    lesions: Sequence[int] | None = None
    polarity: str = "positive"
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Look:
    """What was seen of a case."""

    row: dict[str, Any]
    problems: list[tuple[str, str, str]] = field(default_factory=list)  # severity, kind, text
    digest: bytes = b""
    thumbnail: np.ndarray | None = None


class Looks(Dataset):
    """Cases as `Look`, for a DataLoader: one file after the other, in as many processes as wanted.

    Args:
        cases: (section, record).
        rules: of the labels.
        headers_only: leave pixels alone where the header tells the shape.
        pictured: numbers of the cases that want a thumbnail.
    """

    def __init__(
        self,
        cases: Sequence[tuple[str, Mapping[str, Any]]],
        rules: LabelRules,
        headers_only: bool = False,
        pictured: Sequence[int] = (),
    ) -> None:
        self.cases, self.rules, self.headers_only = cases, rules, headers_only
        self.pictured = frozenset(pictured)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Look:
        section, record = self.cases[index]
        look = Look({"case": record["case"], "section": section, "group": record["group"]})
        try:
            self._look(look, record, index in self.pictured)
        except Exception as error:  # noqa: BLE001 - whatever a file does, the others are looked at
            look.problems.append((ERROR, "unreadable", root_cause(error)))
            if index in self.pictured:
                look.thumbnail = np.full((THUMBNAIL, THUMBNAIL, 3), 200, np.uint8)
        return look

    def _look(self, look: Look, record: Mapping[str, Any], pictured: bool) -> None:
        image = Path(record["image"])
        claim = check_claim(image) if self.headers_only else None
        if claim is not None and (claim.affine is not None or suffix_of(image.name).lower() in IMAGE_SUFFIXES):
            look.row |= _geometry(claim.shape, claim.affine, claim.dtype)
            if self._labels_fit(look, record, claim):
                return
            look.problems.clear()  # all is looked at again, pixels and all
        array, meta = _read(image, _reader(image, self.rules.fields, label=False))
        volume = suffix_of(image.name).lower() not in IMAGE_SUFFIXES
        affine = _square(meta["affine"]) if volume else None
        look.row |= _geometry(array.shape, affine, str(array.dtype))
        content = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
        content.update(np.ascontiguousarray(array).data)
        look.digest = content.digest()
        _look_at_values(look, array)
        marked = self._look_at_labels(look, record, array.shape[: 3 if volume else 2], affine)
        if pictured:
            picture, lesion = array, marked
            if volume:
                picture, lesion = middle_slice(array, marked, None if OCT_AXES in meta else affine)
            look.thumbnail = thumbnail(picture, lesion)

    def _labels_fit(self, look: Look, record: Mapping[str, Any], image: Claim) -> bool:
        """Compare headers of labels with the image's; whether all of them could be."""
        for file in map(Path, record["label"]):
            if not file.exists():
                look.problems.append((ERROR, "unreadable", f"its label {file.name} does not exist"))
                continue
            label = check_claim(file)
            if label is None or (label.affine is None) != (image.affine is None):
                return False
            rank = 2 if image.affine is None else 3
            shapes = [claim.shape[:rank] for claim in (image, label)]
            _compare(look, file, (shapes[0], image.affine), (shapes[1], label.affine))
        return True

    def _look_at_labels(
        self, look: Look, record: Mapping[str, Any], shape: Sequence[int], affine: np.ndarray | None
    ) -> np.ndarray | None:
        """Look at a case's label files and return where they mark a lesion."""
        union: np.ndarray | None = None
        for name in record["label"]:
            file = Path(name)
            array, meta = _read(file, _reader(file, self.rules.fields, label=True))
            label = array
            while label.ndim > len(shape):  # channels, or an axis of one
                label = label.max(-1)
            where = None if affine is None else _square(meta["affine"])
            if not _compare(look, file, (tuple(shape), affine), (label.shape, where)):
                continue
            if label.dtype.kind == "f" and not np.isfinite(label).all():
                look.problems.append((ERROR, "NaN in a label", f"{file.name} holds NaN or infinite values"))
                continue
            try:
                marks = self._marks(label)
            except ValueError as error:
                look.problems.append((ERROR, "unknown label values", f"{file.name}: {error}"))
                continue
            union = marks if union is None else union | marks
        if union is not None:
            look.row["lesion_pixels"] = int(union.sum())
            if not union.any() and record["group"] != "normal":
                look.problems.append((WARNING, "empty label", "no pixel of a lesion in its label"))
        return union

    def _marks(self, label: np.ndarray) -> np.ndarray:
        """Return where a label marks a lesion, a few million voxels at a time."""
        parts = 1 if self.rules.polarity == "auto" else -(-label.size // _CHUNK)
        rules = (self.rules.values, self.rules.polarity, self.rules.lesions)
        marks = []
        for slab in np.array_split(label, max(1, min(parts, label.shape[-1])), axis=-1):
            wide = slab.astype({"u": np.int32, "b": np.int32}.get(slab.dtype.kind, slab.dtype.newbyteorder("=")))
            marks.append(lesion_mask(torch.from_numpy(np.ascontiguousarray(wide))[None], *rules)[0].numpy() > 0)
        return np.concatenate(marks, axis=-1)


def _reader(file: Path, fields: Mapping[str, str], *, label: bool) -> ImageReader:
    if file.suffix.lower() != ".mat":
        return FileReader()
    if label:
        return MatVolumeReader(fields.get("label", "label"), labels=True, labeled_by=fields.get("labeled_by"))
    return MatVolumeReader(fields.get("image", "images"))


def _read(file: Path, reader: ImageReader) -> tuple[np.ndarray, dict[str, Any]]:
    array, meta = reader.get_data(reader.read(str(file)))
    return np.asarray(array), meta


def _square(affine: Any) -> np.ndarray:
    """Return an affine as (4, 4); those of planes are (3, 3)."""
    given = np.asarray(affine, dtype=float)
    whole = np.eye(4)
    rank = len(given) - 1
    whole[:rank, :rank], whole[:rank, 3] = given[:rank, :rank], given[:rank, rank]
    return whole


def _geometry(shape: Sequence[int], affine: np.ndarray | None, dtype: str) -> dict[str, Any]:
    row: dict[str, Any] = {"shape": " x ".join(map(str, shape)), "dtype": dtype}
    if affine is not None:
        row["spacing"], row["orientation"] = _spacing_and_orientation(np.asarray(affine, dtype=float).tobytes())
    return row


@lru_cache(maxsize=256)
def _spacing_and_orientation(affine: bytes) -> tuple[str, str]:
    """Return both as text, from the 16 numbers of an affine; most files of a data set share theirs."""
    matrix = np.frombuffer(affine).reshape(4, 4)
    if not np.isfinite(matrix).all():
        return "?", "?"
    spacing = " x ".join(f"{mm:.4g}" for mm in np.linalg.norm(matrix[:3, :3], axis=0))
    whole = np.linalg.matrix_rank(matrix[:3, :3]) == 3
    return spacing, "".join(code or "?" for code in nib.aff2axcodes(matrix)) if whole else "?"


def _compare(look: Look, file: Path, image: tuple[Any, Any], label: tuple[Any, Any]) -> bool:
    """Whether a label lies on its image's grid; what is wrong is noted."""
    if tuple(image[0])[: len(label[0])] != tuple(label[0]):
        sizes = " and ".join(" x ".join(map(str, shape)) for shape in (label[0], image[0]))
        look.problems.append((ERROR, "label on another grid", f"{file.name} and its image have the sizes {sizes}"))
        return False
    if image[1] is not None and label[1] is not None and np.shape(image[1]) == np.shape(label[1]):
        apart = float(np.abs(np.asarray(image[1]) - np.asarray(label[1])).max())
        if not apart <= 1e-3:
            text = f"{file.name} and its image have affines that differ by {apart:.3g} mm"
            look.problems.append((ERROR, "label on another grid", text))
    return True


def _look_at_values(look: Look, array: np.ndarray) -> None:
    """Note range and NaN of an image."""
    if array.size == 0:
        look.problems.append((ERROR, "empty image", "the image has no pixel"))
        return
    bad = int((~np.isfinite(array)).sum()) if array.dtype.kind in "fc" else 0
    if bad:
        look.problems.append((ERROR, "NaN", f"{bad} of {array.size} values are NaN or infinite"))
        array = np.where(np.isfinite(array), array, 0)
    low, high = array.min(), array.max()
    look.row |= {"min": float(low), "max": float(high), "mean": float(array.mean(dtype=np.float64))}
    if low == high:
        look.problems.append((ERROR, "one value", f"all pixels are {float(low):g}"))


def middle_slice(
    volume: np.ndarray, marked: np.ndarray | None, affine: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a volume's slice with the most lesion, else the middle one, and its lesion, as pictures show them.

    Args:
        volume: (I, J, K) or (I, J, K, C), slices along the third axis.
        marked: where a lesion is, (I, J, K).
        affine: of volumes whose second axis runs along a picture's columns; None where the first does, as in OCT.
    """
    volume = volume if volume.ndim > 2 else volume[:, :, None]
    marked = None if marked is None else marked.reshape(volume.shape[:3])
    counts = None if marked is None else marked.sum((0, 1))
    index = int(counts.argmax()) if counts is not None and counts.any() else volume.shape[2] // 2
    plane = volume[:, :, index].reshape(*volume.shape[:2], -1)[..., 0]
    lesion = None if marked is None else marked[..., index]
    if affine is None:
        return plane, lesion
    turned = [None if one is None else one.T[:: -1 if rows_run_up(affine, 2) else 1] for one in (plane, lesion)]
    return np.asarray(turned[0]), turned[1]


def thumbnail(picture: np.ndarray, marked: np.ndarray | None) -> np.ndarray:
    """Return a small picture, (h, w, 3) uint8, lesions outlined in red.

    Args:
        picture: (H, W) or (H, W, C); three channels are color, of others the first is shown.
        marked: where a lesion is, (H, W).
    """
    plain = np.nan_to_num(np.asarray(picture, dtype=np.float32))
    gray = plain if plain.ndim == 3 and plain.shape[2] == 3 else plain.reshape(*plain.shape[:2], -1)[..., :1]
    low, high = np.percentile(gray, (1, 99))
    shown = (np.clip((gray - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
    scale = THUMBNAIL / max(shown.shape[:2])
    size = [max(1, round(n * scale)) for n in (shown.shape[1], shown.shape[0])]
    small = cv2.resize(np.ascontiguousarray(shown), size, interpolation=cv2.INTER_AREA)
    small = np.repeat(small.reshape(size[1], size[0], -1), 3, 2) if shown.shape[2] == 1 else small
    if marked is not None and marked.any():
        spots = cv2.resize(np.ascontiguousarray(marked, dtype=np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 0
        outline = spots & ~(cv2.erode(spots.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
        small[outline] = (255, 40, 40)
    return np.asarray(small)
