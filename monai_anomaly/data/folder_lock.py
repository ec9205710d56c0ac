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

_NAME = "run.lock"
_PART = re.compile(r"^\..*\.(\d+)\.part(\.[\w.]+)?$")  # as `write_atomically` names them
_held: dict[Path, IO[str]] = {}


def _let_go() -> None:
    """In a child: its copies would keep the folders after the parent's end."""
    for file in _held.values():
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def lock_folder(folder: str | Path, part: str = "") -> None:
    """Keep a folder for this process until it ends, however it ends, and remove the halves of files of killed runs.

    A second call of the same process does nothing, nor one for a folder below. Where the file system knows no locks
    there is none.

    Args:
        folder: made where it is missing.
        part: of the folder's files that the run writes, where several may be written at once.

    Raises:
        RuntimeError: another process has it.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    lock = path.resolve() / f".{part}{_NAME}"
    if any(held == lock or held.parent in lock.parent.parents for held in _held):
        return
    if fcntl is not None:
        file = lock.open("a+", encoding="ascii")
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
        _held[lock] = file
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
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
