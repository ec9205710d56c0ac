"""What a MATLAB file claims, tag by tag, before scipy takes memory for it."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path

_HEADER = 128
_PREFIX = 1 << 16  # a variable's flags, sizes and name lie within
_MATRIX, _COMPRESSED = 14, 15
_MOST_DEFLATED = 1032
_NUMERIC = range(6, 16)  # classes, from double to uint64
_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
"""Bytes of a number by the type it is stored in."""


def check_matlab(file: Path, fields: Collection[str]) -> None:
    """Check the tags of a MATLAB 5 file (the format "-v6" and "-v7" write) against its size.

    Args:
        file: to look at.
        fields: that have to be arrays of numbers, as far as they are there.

    Raises:
        ValueError: another format, a file cut off, or a variable that claims other bytes than there are.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = stream.read(_HEADER)
        orders = {b"IM\x00\x01": "<", b"MI\x01\x00": ">"}
        order = orders.get(header[126:128] + header[124:126])
        if order is None or 0 in header[:4]:  # scipy takes a zero there for version 4
            hint = " (version 7.3: save it with -v7)" if header.startswith(b"MATLAB 7.3") else ""
            msg = f"no MATLAB 5 header{hint}"
            raise ValueError(msg)
        place = _HEADER
        while place < size:
            stream.seek(place)
            tag = stream.read(8)
            if len(tag) < 8:
                msg = f"cut off after {size} bytes"
                raise ValueError(msg)
            kind, length = struct.unpack(f"{order}2I", tag)
            if kind not in {_MATRIX, _COMPRESSED} or length > size - place - 8:
                msg = f"a variable of kind {kind} claims {length} bytes, the file has {size - place - 8} more"
                raise ValueError(msg)
            content = stream.read(min(length, _PREFIX))
            if kind == _COMPRESSED:
                content = zlib.decompressobj().decompress(content, _PREFIX)
                inner, inner_length = struct.unpack(f"{order}2I", content[:8])
                if inner != _MATRIX or inner_length > length * _MOST_DEFLATED:
                    msg = f"a compressed variable of kind {inner} claims {inner_length} bytes of {length}"
                    raise ValueError(msg)
                content, length = content[8:], inner_length
            _check_variable(content, length, order, fields)
            place += 8 + struct.unpack(f"{order}I", tag[4:])[0]


def _check_variable(content: bytes, length: int, order: str, fields: Collection[str]) -> None:
    """Check one variable: flags, sizes, name, and where it is an array of numbers, that these are all there."""
    flags, place = _element(content, 0, length, order)
    if len(flags) != 8:
        msg = f"a variable's flags have {len(flags)} bytes"
        raise ValueError(msg)
    word = struct.unpack_from(f"{order}I", flags)[0]
    kind, is_complex = word & 0xFF, bool(word & 0x800)
    raw, place = _element(content, place, length, order)
    sizes = struct.unpack(f"{order}{len(raw) // 4}i", raw[: len(raw) // 4 * 4])
    name, place = _element(content, place, length, order)
    if kind not in _NUMERIC:
        if name.decode("latin-1") in fields:
            msg = f"the field {name.decode('latin-1')!r} is no array of numbers"
            raise ValueError(msg)
        return
    if not 2 <= len(sizes) <= 32 or len(raw) % 4 or any(size < 0 for size in sizes):
        msg = f"a variable has the size {' x '.join(map(str, sizes))}"
        raise ValueError(msg)
    if is_complex and name.decode("latin-1") in fields:
        msg = f"the field {name.decode('latin-1')!r} holds complex numbers"
        raise ValueError(msg)
    stored, num_bytes, _ = _tag(content, place, length, order)
    if num_bytes != math.prod(sizes) * _SIZES.get(stored, -1):
        msg = f"{num_bytes} bytes of numbers for the size {' x '.join(map(str, sizes))}"
        raise ValueError(msg)


def _tag(content: bytes, place: int, length: int, order: str) -> tuple[int, int, int]:
    """Return an element's type, its number of bytes, and where they begin."""
    if place + 8 > min(len(content), length):
        msg = "a variable ends within its header"
        raise ValueError(msg)
    word, num_bytes = struct.unpack_from(f"{order}2I", content, place)
    small = word >> 16  # up to four bytes lie in the tag itself
    start, num_bytes = (place + 4, small) if small else (place + 8, num_bytes)
    if num_bytes > length - start or small > 4:
        msg = f"a part of a variable claims {num_bytes} bytes of {length}"
        raise ValueError(msg)
    return word & 0xFFFF, num_bytes, start


def _element(content: bytes, place: int, length: int, order: str) -> tuple[bytes, int]:
    """Return an element's bytes and where the next one begins."""
    _, num_bytes, start = _tag(content, place, length, order)
    after = place + 8 if start == place + 4 else start + -(-num_bytes // 8) * 8
    if start + num_bytes > len(content):
        msg = f"a variable's header claims {num_bytes} bytes"
        raise ValueError(msg)
    return content[start : start + num_bytes], after
