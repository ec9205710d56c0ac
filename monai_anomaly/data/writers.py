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
    """MONAI's NIfTI writer for ``SaveImaged(writer=…)``, whose files appear whole or not at all.

    Volumes of one slice keep their third axis: MONAI's writer takes it off, and the file leaves its input's grid.
    """

    data_obj: Any

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **kwargs: Any) -> None:
        """Take the array; of the axes of length 1, the channel's alone goes."""
        super().set_data_array(data_array, channel_dim, **{**kwargs, "squeeze_end_dims": False})
        array: Any = self.data_obj
        self.data_obj = array[..., 0] if channel_dim is not None and array.shape[-1] == 1 else array

    def write(self, filename: str | Path, verbose: bool = False, **kwargs: Any) -> None:
        """Write the image."""
        write_atomically(filename, lambda path: NibabelWriter.write(self, path, verbose, **kwargs))


class AtomicPILWriter(PILWriter):
    """MONAI's PIL writer for arrays (H, W), whose files appear whole or not at all; float32 as TIFF keeps every bit."""

    def write(self, filename: str | Path, verbose: bool = False, **kwargs: Any) -> None:
        """Write the image."""
        kwargs = {"reverse_indexing": False, **kwargs}
        write_atomically(filename, lambda path: PILWriter.write(self, path, verbose, **kwargs))
