"""Files that appear whole or not at all, written while the next case is computed where somebody asks for that."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from monai.data import NibabelWriter, PILWriter

from monai_anomaly.data.suffixes import suffix_of

_REFUSALS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO")
    if hasattr(errno, name)
}


def write_atomically(file: str | Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` fill a temporary file beside ``file``, then move it there; return the path.

    Nobody ever sees half a file, and a failure leaves what was there before.

    Raises:
        OSError: the disk refused; the message says how much of it is free.
    """
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = suffix_of(path.name) or path.suffix
    temporary = path.with_name(f".{path.name.removesuffix(suffix)}.{os.getpid()}.part{suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        free = shutil.disk_usage(path.parent).free / 1e9
        msg = (
            f"{path.name} could not be written: {reason} ({free:.2g} GB are free in {str(path.parent)!r}); "
            f"make room, or choose another folder."
        )
        raise OSError(msg) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _refusal(error: BaseException | None) -> str | None:
    """Return what the system said where it refused to write; libraries turn that into errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            return error.strerror or str(error)
        if any(word in str(error) for word in ("iostream", "PytorchStreamWriter", "unexpected pos")):
            return "the system refused it"
        error = error.__cause__ or error.__context__
    return None


class BackgroundWrites:
    """While it is open, the writers below leave their work to one thread: compressing needs no Python lock.

    >>> with BackgroundWrites() as writes:
    ...     pass  # SaveImaged(writer=AtomicNibabelWriter)
    ...     for job in writes.take():
    ...         job.result()  # raises what the writing raised
    """

    active: BackgroundWrites | None = None

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "writes")
        self._jobs: list[Future[Any]] = []

    def __enter__(self) -> BackgroundWrites:
        BackgroundWrites.active = self
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for what is being written, and write at once from here on."""
        BackgroundWrites.active = None
        self._pool.shutdown()

    def take(self) -> list[Future[Any]]:
        """Return the jobs since the last call."""
        jobs, self._jobs = self._jobs, []
        return jobs

    @classmethod
    def run(cls, job: Callable[[], Any]) -> None:
        """Do a job in the thread of the open instance, or now."""
        if cls.active is None:
            job()
        else:
            cls.active._jobs.append(cls.active._pool.submit(job))


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
        whole = partial(NibabelWriter.write, self, verbose=verbose, **kwargs)
        BackgroundWrites.run(lambda: write_atomically(filename, whole))


class AtomicPILWriter(PILWriter):
    """MONAI's PIL writer for arrays (H, W), whose files appear whole or not at all; float32 as TIFF keeps every bit."""

    def write(self, filename: str | Path, verbose: bool = False, **kwargs: Any) -> None:
        """Write the image."""
        kwargs = {"reverse_indexing": False, **kwargs}
        whole = partial(PILWriter.write, self, verbose=verbose, **kwargs)
        BackgroundWrites.run(lambda: write_atomically(filename, whole))
