"""What a file's header claims, compared with the file's size before any memory is taken."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
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


@dataclass(frozen=True)
class Claim:
    """What a header promises.

    Args:
        shape: of the array, as the file orders it.
        num_bytes: of the array.
        available: bytes the file has for it at most.
    """

    shape: tuple[int, ...]
    num_bytes: int
    available: int


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


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "nothing"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _nifti(path: Path) -> Claim:
    image = nib.Nifti1Image.from_filename(path) if _is_nifti1(path) else nib.Nifti2Image.from_filename(path)
    shape = tuple(int(size) for size in image.shape)
    num_bytes = math.prod(shape) * image.get_data_dtype().itemsize
    if path.suffix.lower() == ".gz":
        return Claim(shape, num_bytes, path.stat().st_size * _MOST_DEFLATED)
    offset = int(image.dataobj.offset)
    if offset < 0:
        msg = f"its data begin at {offset}"
        raise ValueError(msg)
    return Claim(shape, num_bytes, max(0, path.stat().st_size - offset))


def _is_nifti1(path: Path) -> bool:
    with Opener(str(path)) as file:
        start = file.read(348)
    if len(start) < 348:
        msg = f"{len(start)} bytes, a NIfTI header has 348"
        raise ValueError(msg)
    return 348 in struct.unpack("<i", start[:4]) + struct.unpack(">i", start[:4])


def _lines(path: Path, separator: str, last: str) -> tuple[dict[str, str], int]:
    """Return the fields of a text header and where it ends; ``last`` is the field, or empty line, it ends with."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < _LONGEST_HEADER:
            raw = file.readline(_LONGEST_HEADER)
            line = raw.decode("latin-1").strip()
            key, found, value = line.partition(separator)
            if found:
                fields[key.strip()] = value.strip()
            if not raw or (not line and not last) or (last and key.strip() == last):
                break
        return fields, file.tell()


def _beside(path: Path, name: str) -> Path:
    """Return the data file a header names; only a file in the header's own folder will do."""
    if Path(name).name != name or name in {"", ".", ".."} or "%" in name or name.upper().startswith("LIST"):
        msg = f"it names the data file {name[:80]!r}; expected one file beside the header"
        raise ValueError(msg)
    data = path.with_name(name)
    if not data.is_file():
        msg = f"its data file {name[:80]!r} is missing"
        raise ValueError(msg)
    return data


def _metaimage(path: Path) -> Claim:
    fields, end = _lines(path, "=", "ElementDataFile")
    shape = tuple(int(size) for size in fields["DimSize"].split())
    if len(shape) != int(fields["NDims"]) or not 1 <= len(shape) <= 4:
        msg = f"NDims is {fields['NDims']}, DimSize has {len(shape)} numbers"
        raise ValueError(msg)
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    kind = fields["ElementType"].upper().removeprefix("MET_").removesuffix("_ARRAY")
    num_bytes = math.prod(shape) * channels * _META_TYPES[kind if kind in _META_TYPES else kind.removeprefix("U")]
    local = fields["ElementDataFile"].upper() == "LOCAL"
    skipped = max(0, int(fields.get("HeaderSize", "0")))
    available = path.stat().st_size - end if local else _beside(path, fields["ElementDataFile"]).stat().st_size
    factor = _MOST_DEFLATED if fields.get("CompressedData", "").lower() == "true" else 1
    _check_numbers(fields, ("ElementSpacing", "ElementSize", "TransformMatrix", "Rotation", "Orientation", "Offset"))
    return Claim((*shape, channels) if channels > 1 else shape, num_bytes, max(0, available - skipped) * factor)


def _check_numbers(fields: Mapping[str, str], names: tuple[str, ...]) -> None:
    for name in names:
        numbers = [float(word) for word in fields.get(name, "").split()]
        if not all(math.isfinite(number) for number in numbers):
            msg = f"{name} is {fields[name][:80]}"
            raise ValueError(msg)
        if name in {"ElementSpacing", "ElementSize"} and not all(numbers):
            msg = f"{name} is {fields[name][:80]}"
            raise ValueError(msg)


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
        header = file.read(34)
    bits, compression = struct.unpack_from("<H", header, 28)[0], struct.unpack_from("<I", header, 30)[0]
    packed = compression in {1, 2}  # run lengths
    return Claim((height, width), (width * bits + 7) // 8 * height, size * (_MOST_DEFLATED if packed else 1))


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
