"""What a file's header claims, compared with the file's size before any memory is taken."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import Opener
from PIL import Image

from monai_anomaly.data.suffixes import suffix_of

_MOST_DEFLATED = 1032
"""Bytes that one byte of a deflate stream can stand for at most (zlib's own figure)."""

_META_TYPES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_NRRD_TYPES = {
    1: "signed char,int8,int8_t,uchar,unsigned char,uint8,uint8_t",
    2: "short,short int,signed short,ushort,unsigned short,int16,int16_t,uint16,uint16_t",
    4: "int,signed int,int32,int32_t,uint,unsigned int,uint32,uint32_t,float",
    8: "double,longlong,long long,int64,int64_t,ulonglong,unsigned long long,uint64,uint64_t",
}
_LONGEST_HEADER = 1 << 20
_VOL_HEADER = 2048
_MOST_PIXELS = 1 << 26


@dataclass(frozen=True)
class Claim:
    """What a header promises.

    Args:
        shape: of the array, as the file orders it.
        num_bytes: of the array.
        available: bytes the file has for it at most.
        dtype: of the values, as NumPy calls it.
        affine: (4, 4), voxels to mm in RAS+, of volumes whose header is read here to the end; None of others.
    """

    shape: tuple[int, ...]
    num_bytes: int
    available: int
    dtype: str = ""
    affine: np.ndarray | None = None


def check_claim(file: str | Path) -> Claim | None:
    """Return what a volume's or image's header claims, None for formats and folders that are not looked at.

    Args:
        file: NIfTI, MHD, MHA, NRRD, Heidelberg's .vol, BMP or PNG.

    Raises:
        ValueError: no header of its format, sizes that make no array, or more data than the file can hold: it was cut
            off, or claims an absurd size.
    """
    path = Path(file)
    read = _FORMATS.get(suffix_of(path.name).lower() or path.suffix.lower())
    if read is None or not path.is_file():
        return None
    try:
        claim = read(path)
    except Exception as error:
        msg = f"{path.name} cannot be read ({_reason(error)}); expected a whole file: copy or export it again."
        raise ValueError(msg) from error
    if not claim.shape or any(size < 1 for size in claim.shape):
        msg = f"{path.name} claims the size {_times(claim.shape)}; expected positive numbers: export it again."
        raise ValueError(msg)
    if claim.num_bytes > claim.available:
        msg = (
            f"{path.name} is cut off, or claims an absurd size: {_times(claim.shape)} take {claim.num_bytes} bytes, "
            f"the file has {claim.available} at most; copy or export it again."
        )
        raise ValueError(msg)
    return claim


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Hold back what a library's logger says, as long as this lasts."""
    chatty = logging.getLogger(name)
    before, chatty.disabled = chatty.disabled, True
    try:
        yield
    finally:
        chatty.disabled = before


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "nothing"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _nifti(path: Path) -> Claim:
    packed = path.suffix.lower() == ".gz"
    available = path.stat().st_size * (_MOST_DEFLATED if packed else 1)
    with Opener(str(path)) as file, quiet("nibabel.global"):
        size = _check_nifti_header(file, available)
        header = (nib.Nifti1Header if size == 348 else nib.Nifti2Header).from_fileobj(file)
    shape = tuple(int(size) for size in header.get_data_shape())
    dtype = header.get_data_dtype()
    available -= 0 if packed else int(header.get_data_offset())
    return Claim(shape, math.prod(shape) * dtype.itemsize, available, str(dtype), header.get_best_affine())


def _check_nifti_header(file: Any, available: int) -> int:
    """Return 348 or 540, the header's size; refuse extensions that go beyond where the data begin."""
    start = file.read(540)
    sizes = {order: struct.unpack(f"{order}i", start[:4])[0] for order in "<>" if len(start) >= 352}
    order = next((order for order, size in sizes.items() if size in {348, 540}), None)
    if order is None:
        msg = f"{len(start)} bytes that begin {start[:4]!r}, no NIfTI header"
        raise ValueError(msg)
    size = sizes[order]
    form, where = ("f", 108) if size == 348 else ("q", 168)
    data = int(struct.unpack_from(order + form, start, where)[0])
    place = size + 4
    file.seek(size)
    extended = file.read(4)[:1] not in {b"", b"\0"}
    if not place <= data <= available and (data or extended):  # 0 stands for the header's end
        msg = f"its data begin at {data}"
        raise ValueError(msg)
    while extended and place + 16 <= data:
        file.seek(place)
        raw = file.read(4)
        length = struct.unpack(f"{order}i", raw)[0] if len(raw) == 4 else 0
        if not 16 <= length <= data - place:
            msg = f"an extension of its header has {length} bytes"
            raise ValueError(msg)
        place += length
    file.seek(0)
    return size


def _lines(path: Path, separators: str, last: str) -> tuple[dict[str, str], int]:
    """Return the fields of a text header by their names in small letters, and where it ends.

    ``last`` is the field it ends with, or "" for an empty line. Comments and keys of one's own may hold anything.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < _LONGEST_HEADER:
            raw = file.readline(_LONGEST_HEADER)
            line = raw.decode("latin-1").strip()
            spot = min((line.find(mark) for mark in separators if mark in line), default=-1)
            key = line[:spot].strip().lower() if spot > 0 else ""
            if "\0" in line or (key in _KNOWN and key in fields):
                msg = "its header has bytes that are no text, or a field twice"
                raise ValueError(msg)
            if key and not line.startswith("#"):
                fields[key] = line[spot + 1 :].strip()
            if not raw or (not line and not last) or (last and key == last):
                break
        return fields, file.tell()


def _beside(path: Path, name: str) -> Path:
    """Return the data file a header names; it has to lie in the header's folder, or below."""
    data = (path.parent / name).resolve()
    inside = bool(name) and data.is_relative_to(path.parent.resolve()) and "%" not in name
    if not inside or name.upper().startswith("LIST"):
        msg = "its data are not in one file beside the header"
        raise ValueError(msg)
    if not data.is_file():
        msg = f"its data file {data.name[:80]!r} is missing"
        raise ValueError(msg)
    return data


_NUMBERS_PER_AXIS = {
    "elementspacing": 1,
    "elementsize": 1,
    "offset": 1,
    "position": 1,
    "origin": 1,
    "centerofrotation": 1,
    "transformmatrix": 2,
    "rotation": 2,
    "orientation": 2,
}
"""How many numbers these have, as a power of the number of axes."""

_KNOWN = {
    *_NUMBERS_PER_AXIS, "objecttype", "ndims", "dimsize", "binarydata", "elementnumberofchannels", "elementtype",
    "elementdatafile", "headersize", "compresseddata", "compresseddatasize", "sizes", "type", "encoding", "data file",
    "datafile", "dimension",
}  # fmt: skip
"""Fields that decide what a file means; any other may be there twice."""


def _is_true(word: str) -> bool:
    return word.lower() in {"true", "t", "1"}


def _metaimage(path: Path) -> Claim:
    fields, end = _lines(path, "=:", "elementdatafile")
    shape = tuple(int(size) for size in fields["dimsize"].split())
    axes = int(fields["ndims"])
    if len(shape) != axes or not 1 <= axes <= 4:
        msg = f"NDims is {axes}, DimSize has {len(shape)} numbers"
        raise ValueError(msg)
    if fields.get("objecttype", "Image") != "Image" or not _is_true(fields.get("binarydata", "True")):
        msg = "it is no image of binary data"
        raise ValueError(msg)
    for name, power in _NUMBERS_PER_AXIS.items():
        numbers = [float(word) for word in fields[name].split()] if name in fields else [1.0] * axes**power
        spacing = name in {"elementspacing", "elementsize"}
        if len(numbers) != axes**power or not all(math.isfinite(x) and (x > 0 or not spacing) for x in numbers):
            msg = f"{name} is {fields[name][:80]!r}"
            raise ValueError(msg)
    channels, skipped = int(fields.get("elementnumberofchannels", "1")), int(fields.get("headersize", "0"))
    packed_size = int(fields.get("compresseddatasize", "0"))
    kind = fields["elementtype"].upper().removeprefix("MET_")
    itemsize = _META_TYPES[kind if kind in _META_TYPES else kind.removeprefix("U")]
    local = fields["elementdatafile"].upper() == "LOCAL"
    there = path.stat().st_size - end if local else _beside(path, fields["elementdatafile"]).stat().st_size
    if not (1 <= channels <= 1024 and 0 <= packed_size <= there and (skipped == -1 or 0 <= skipped <= there)):
        msg = f"{channels} channels, {packed_size} bytes compressed, {skipped} to skip of {there}"
        raise ValueError(msg)
    factor = _MOST_DEFLATED if _is_true(fields.get("compresseddata", "False")) else 1
    num_bytes = math.prod(shape) * channels * itemsize
    full = (*shape, channels) if channels > 1 else shape
    available = (there - max(0, skipped)) * factor
    sign = "u" if kind.startswith("U") else ""
    dtype = f"float{8 * itemsize}" if kind in {"FLOAT", "DOUBLE"} else f"{sign}int{8 * itemsize}"
    return Claim(full, num_bytes, available, dtype, _meta_affine(fields, axes))


def _meta_affine(fields: Mapping[str, str], axes: int) -> np.ndarray | None:
    """Return the affine of a volume in RAS+; MetaImage's is in LPS+, rows of the matrix being the voxel axes."""
    if axes != 3:
        return None

    def numbers(names: str, default: list[float]) -> np.ndarray:
        found = next((fields[name].split() for name in names.split() if name in fields), default)
        return np.array([float(word) for word in found])

    spacing = numbers("elementspacing elementsize", [1.0] * 3)
    directions = numbers("transformmatrix rotation orientation", list(np.eye(3).ravel())).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = directions.T * spacing
    affine[:3, 3] = numbers("offset position origin", [0.0] * 3)
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _nrrd(path: Path) -> Claim:
    fields, end = _lines(path, ":", "")
    shape = tuple(int(size) for size in fields["sizes"].split())
    kind = fields["type"].lower()
    itemsize = next(size for size, names in _NRRD_TYPES.items() if kind in names.split(","))
    name = fields.get("data file", fields.get("datafile"))
    available = path.stat().st_size - end if name is None else _beside(path, name).stat().st_size
    factor = 1 if fields.get("encoding", "raw").lower() == "raw" else _MOST_DEFLATED
    return Claim(shape, math.prod(shape) * itemsize, available * factor)


def _heidelberg(path: Path) -> Claim:
    with path.open("rb") as file:
        header = file.read(_VOL_HEADER)
    if len(header) < _VOL_HEADER or not header.startswith((b"HSF-", b"ep-v")):
        msg = f"{len(header)} bytes without the mark HSF-OCT, a .vol header has {_VOL_HEADER}"
        raise ValueError(msg)
    width, scans, height = struct.unpack_from("<3I", header, 12)
    slo = struct.unpack_from("<2I", header, 48)
    (scan_header,) = struct.unpack_from("<I", header, 100)
    needed = slo[0] * slo[1] + scans * (max(scan_header, 256) + 4 * width * height)
    return Claim((scans, height, width), needed, path.stat().st_size - _VOL_HEADER)


def _picture(path: Path) -> Claim:
    with Image.open(path) as image:
        (width, height), mode = image.size, image.mode
    depth = {"1": 1 / 8, "L": 1, "P": 1, "LA": 2, "I;16": 2, "RGB": 3, "RGBA": 4, "I": 4, "F": 4}.get(mode, 4)
    size = path.stat().st_size
    if path.suffix.lower() == ".png":
        return Claim((height, width), math.ceil(width * height * depth), size * _MOST_DEFLATED)
    with path.open("rb") as file:
        header = file.read(34).ljust(34, b"\0")
    old = struct.unpack_from("<I", header, 14)[0] == 12  # OS/2's header
    bits = struct.unpack_from("<H", header, 24 if old else 28)[0]
    num_bytes = (width * bits + 7) // 8 * height
    packed = not old and struct.unpack_from("<I", header, 30)[0] in {1, 2}
    if packed and width * height > _MOST_PIXELS:  # run lengths may skip as many rows as they like
        msg = f"{width} x {height} pixels in run lengths"
        raise ValueError(msg)
    return Claim((height, width), num_bytes, num_bytes if packed else size)


_FORMATS: dict[str, Callable[[Path], Claim]] = {
    ".nii": _nifti,
    ".nii.gz": _nifti,
    ".mhd": _metaimage,
    ".mha": _metaimage,
    ".nrrd": _nrrd,
    ".vol": _heidelberg,
    ".bmp": _picture,
    ".png": _picture,
}
