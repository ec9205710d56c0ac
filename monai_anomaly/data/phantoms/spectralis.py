"""Phantoms in Heidelberg's .vol layout, as the Spectralis exports volume scans with its layer lines."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_anomaly.data.writers import write_atomically

_SLO = (48, 64)  # rows and columns of the fundus picture, black
_ABSENT = float(np.finfo(np.float32).max)


def write_vol(
    file: str | Path,
    volume: np.ndarray,
    layers: np.ndarray,
    spacing: Sequence[float] = (0.0039, 0.0115, 0.24),
    laterality: str = "OD",
    patient: str = "phantom",
    *,
    vertical: bool = False,
) -> Path:
    """Write a volume scan and its layer lines, and return the path.

    Args:
        file: to write.
        volume: reflectivity in [0, 1], (rows, A-scans, B-scans); NaN for what was not measured.
        layers: rows of ILM, Bruch's membrane and others, (layers, A-scans, B-scans); NaN where there is none.
        spacing: of rows, A-scans, B-scans in mm.
        laterality: "OD" or "OS".
        patient: name and number in the header.
        vertical: B-scans run from top to bottom of the fundus, not from left to right.
    """
    rows, a_scans, b_scans = volume.shape
    scan_header = 256 + 4 * len(layers) * a_scans
    header = bytearray(2048)
    sizes = (b"HSF-OCT-103", a_scans, b_scans, rows, spacing[1], spacing[2], spacing[0], _SLO[1], _SLO[0], 0.1, 0.1)
    struct.pack_into("<12s3I3d2I2d", header, 0, *sizes)
    pattern, exam = 3, 131000000000000000  # a volume scan, in 2016
    struct.pack_into("<Id4sQiI", header, 72, 30, 0.0, laterality.encode(), exam, pattern, scan_header)
    who = patient.encode()[:23]
    struct.pack_into("<16s16sI24sdI24sd", header, 104, b"1", b"1", 1, who, 30000.0, 1, who, 42000.0)
    content = bytes(header) + bytes(_SLO[0] * _SLO[1])
    values = np.where(np.isfinite(volume), volume, _ABSENT).astype("<f4")
    lines = np.where(np.isfinite(layers), layers, _ABSENT).astype("<f4")
    for index in range(b_scans):
        place, length = spacing[2] * (b_scans - 1 - index), spacing[1] * (a_scans - 1)  # the lowest B-scan comes first
        line = (place, 0.0, place, length) if vertical else (0.0, place, length, place)
        scan = bytearray(256)
        struct.pack_into("<12sI4dIIfI", scan, 0, b"HSF-BS-103", scan_header, *line, len(layers), 256, 30.0, 0)
        content += bytes(scan) + lines[:, :, index].tobytes() + values[..., index].tobytes()
    return write_atomically(file, lambda part: part.write_bytes(content))
