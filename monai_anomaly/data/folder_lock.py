"""One run at a time in a folder, and nothing left of runs that were killed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

_NAME = ".run.lock"
_PART = re.compile(r"^\..*\.(\d+)\.part(\.[\w.]+)?$")  # as `write_atomically` names them
_held: dict[tuple[int, int], IO[str]] = {}


def lock_folder(folder: str | Path) -> None:
    """Keep a folder for this process until it ends, however it ends, and remove the halves of files of killed runs.

    A second call of the same process does nothing. Where the file system knows no locks there is none.

    Raises:
        RuntimeError: another process has it.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if fcntl is not None:
        file = (path / _NAME).open("a+", encoding="ascii")
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) in _held:
            file.close()
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            msg = f"Another run (process {holder}) writes to {str(path)!r}; wait for it, or choose another folder."
            raise RuntimeError(msg) from error
        except OSError:
            file.close()
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _held[status.st_dev, status.st_ino] = file
    _sweep(path)


def _sweep(path: Path) -> None:
    """Remove temporary files of processes that are no more."""
    for root, _, names in os.walk(path):
        for name in names:
            found = _PART.match(name)
            if found and not _is_alive(int(found[1])):
                (Path(root) / name).unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()
