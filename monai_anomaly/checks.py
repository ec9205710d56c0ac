"""One wording for every error: what was expected, what came, what to do."""

from __future__ import annotations

import difflib
import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

_LONGEST_REASON = 600


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the option nearest to ``word``, or an empty string."""
    near = difflib.get_close_matches(str(word), list(options), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_option(name: str, value: Any, options: Sequence[Any]) -> Any:
    """Return ``value`` where it is one of ``options``.

    Raises:
        ValueError: it is not; the message lists the options and the nearest one.
    """
    if value not in options:
        listed = ", ".join(repr(option) for option in options)
        hint = did_you_mean(str(value), map(str, options))
        msg = f"{name} must be one of {listed}, got {value!r}.{hint}"
        raise ValueError(msg)
    return value


def check_range(name: str, value: float, low: float, high: float = float("inf"), *, low_open: bool = False) -> None:
    """Check that ``low <= value <= high``, or ``low < value`` where ``low_open``.

    Raises:
        ValueError: it is outside, or not a number.
    """
    inside = low < value <= high if low_open else low <= value <= high
    if not inside:
        upper = "" if high == float("inf") else f" and at most {high:g}"
        msg = f"{name} must be {'more than' if low_open else 'at least'} {low:g}{upper}, got {value}."
        raise ValueError(msg)


def check_pairs(class_names: Sequence[str], values: Sequence[int]) -> None:
    """Check that each class has one value in label files, and that no name or value is there twice.

    Raises:
        ValueError: they are not as many, or not distinct.
    """
    if len(class_names) != len(values) or len(set(class_names)) < len(class_names) or len(set(values)) < len(values):
        msg = (
            f"Each of class_names needs its own of lesion_values, got {list(class_names)} and {list(values)}: "
            f"set both, in one order."
        )
        raise ValueError(msg)


def check_image_batch(name: str, images: torch.Tensor, in_channels: int) -> None:
    """Check that a network's input is ``(B, in_channels, H, W)``.

    Raises:
        ValueError: another number of dimensions or channels.
    """
    if images.ndim != 4 or images.shape[1] != in_channels:
        msg = (
            f"{name} expects (B, {in_channels}, H, W), got {tuple(images.shape)}; "
            f"set in_channels to the data's channels and fit again, or convert the images."
        )
        raise ValueError(msg)


def check_divisible(images: torch.Tensor, factor: int) -> None:
    """Check that height and width are multiples of what a network's pooling divides them by.

    Raises:
        ValueError: they are not; the message says what to pad to.
    """
    for name, size in zip(("height", "width"), images.shape[-2:], strict=True):
        if size % factor or not size:
            msg = (
                f"Input {name} {size} is not a multiple of {factor}; pad to {-(-max(size, 1) // factor) * factor} "
                f"(DivisiblePadd(k={factor})), or set image_size."
            )
            raise ValueError(msg)


def check_same_grid(
    name: str, image: Any, other: Any, *, expected: str = "the image", tolerance_mm: float = 1e-3
) -> None:
    """Check that two arrays with an optional ``affine`` lie on one voxel grid.

    Args:
        name: what ``other`` is, for the message.
        image: array ``(C, ...)`` that sets the grid.
        other: array ``(C, ...)`` that has to lie on it.
        expected: what ``image`` is, for the message.
        tolerance_mm: the largest allowed difference of any affine entry.

    Raises:
        ValueError: another spatial shape, or an affine that differs by more than the tolerance.
    """
    if tuple(image.shape[1:]) != tuple(other.shape[1:]):
        msg = (
            f"{name} has the size {_times(other.shape[1:])}, {expected} {_times(image.shape[1:])}; "
            f"export both on one grid."
        )
        raise ValueError(msg)
    affines = [getattr(array, "affine", None) for array in (image, other)]
    if affines[0] is None or affines[1] is None:
        return
    first, second = (np.asarray(affine, dtype=float) for affine in affines)
    if first.shape == second.shape and np.abs(first - second).max() > tolerance_mm:
        msg = (
            f"{name} and {expected} have different affines (largest difference "
            f"{np.abs(first - second).max():g} mm); resample {name} to the grid of {expected}."
        )
        raise ValueError(msg)


def check_directory(name: str, path: Any) -> Path:
    """Return ``path`` as an existing folder.

    Raises:
        TypeError: a number came, as ``--dataset_dir 2023`` gives on MONAI's command line.
        FileNotFoundError: there is no such folder.
    """
    if not isinstance(path, (str, Path)):
        msg = f"{name} must be a folder's path, got the {type(path).__name__} {path!r}; write it as ./{path}"
        raise TypeError(msg)
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "does not exist"
        msg = f"{name} {str(path)!r} {what}; pass the folder that holds the data (--{name} DIR)."
        raise FileNotFoundError(msg)
    return folder


def check_writable(name: str, path: Any) -> Path:
    """Return ``path`` as a folder that files can be written to, making it where it is missing.

    Raises:
        TypeError: nothing came, or a number.
        PermissionError: it cannot be made or written to.
    """
    if path is None:
        msg = f"{name} is not given; pass a folder to write to (--{name} DIR)."
        raise TypeError(msg)
    if not isinstance(path, (str, Path)):
        msg = f"{name} must be a folder's path, got the {type(path).__name__} {path!r}; write it as ./{path}"
        raise TypeError(msg)
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"{name} {str(path)!r} is not writable ({error.strerror}); pass a folder you may write to (--{name} DIR)."
        raise PermissionError(msg) from error
    return folder


def check_file(name: str, path: Any, remedy: str) -> Path:
    """Return ``path`` as an existing file.

    Raises:
        FileNotFoundError: there is no such file; ``remedy`` says what to do.
    """
    file = Path(str(path))
    if not file.is_file():
        msg = f"{name} {str(path)!r} does not exist; {remedy}"
        raise FileNotFoundError(msg)
    return file


def file_digest(path: Any) -> str:
    """Return the SHA-256 of a file, "none" where there is no file."""
    if path is None or not Path(path).is_file():
        return "none"
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def root_cause(error: BaseException) -> str:
    """Return the innermost reason of a chain of errors as one line.

    MONAI wraps what went wrong in a transform or a config expression several times; users need the first cause.
    """
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if inner is None or _is_ours(error):
            break
        error = inner
    text = " ".join(str(error).split())
    if len(text) > _LONGEST_REASON:  # a foreign checkpoint names each of its hundreds of keys
        text = text[:_LONGEST_REASON] + " ..."
    return text if _is_ours(error) and text else f"{type(error).__name__}: {text}"


def _is_ours(error: BaseException) -> bool:
    """Whether the error was raised by this package, whose messages stand on their own."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parent)


def _times(shape: Iterable[int]) -> str:
    return " x ".join(str(int(size)) for size in shape)
