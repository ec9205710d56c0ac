"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai.data import NibabelWriter, PILWriter

from monai_anomaly.data.suffixes import suffix_of


def write_atomically(file: str | Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` fill a temporary file beside ``file``, then move it there; return the path.

    Nobody ever sees half a file, and a failure leaves what was there before.
    """
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = suffix_of(path.name) or path.suffix
    temporary = path.with_name(f".{path.name.removesuffix(suffix)}.{os.getpid()}.part{suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


class AtomicNibabelWriter(NibabelWriter):
    """MONAI's NIfTI writer for ``SaveImaged(writer=…)``, whose files appear whole or not at all."""

    def write(self, filename: str | Path, verbose: bool = False, **kwargs: Any) -> None:
        """Write the image."""
        write_atomically(filename, lambda path: NibabelWriter.write(self, path, verbose, **kwargs))


class AtomicPILWriter(PILWriter):
    """MONAI's PIL writer for arrays (H, W), whose files appear whole or not at all; float32 as TIFF keeps every bit."""

    def write(self, filename: str | Path, verbose: bool = False, **kwargs: Any) -> None:
        """Write the image."""
        kwargs = {"reverse_indexing": False, **kwargs}
        write_atomically(filename, lambda path: PILWriter.write(self, path, verbose, **kwargs))
