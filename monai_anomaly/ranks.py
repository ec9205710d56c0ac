"""Several processes that share one run, as ``torchrun`` starts them; alone, everything here is a plain call.

The processes of a run trust one another: what they tell one another travels as pickles between them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

_PATIENCE = timedelta(days=7)  # others may work on their cases for as long


class Mergeable(Protocol):
    """What takes over what another of its kind has counted."""

    def merge(self, other: Any) -> None:
        """Add the other's counts behind one's own."""


T = TypeVar("T")
M = TypeVar("M", bound=Mergeable)


def join() -> torch.device:
    """Join the processes that torchrun started and return this one's device: its own GPU, or the CPU without one.

    Raises:
        RuntimeError: not started by torchrun, or more processes than GPUs on this machine.
    """
    if not _started():
        msg = "This config is for several processes; start it with torchrun --nproc_per_node N -m monai.bundle run ..."
        raise RuntimeError(msg)
    local, on_gpu = int(os.environ["LOCAL_RANK"]), torch.cuda.is_available()
    if on_gpu and local >= torch.cuda.device_count():
        msg = f"Process {local + 1} on a machine of {torch.cuda.device_count()} GPUs; lower --nproc_per_node."
        raise RuntimeError(msg)
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    return device


def _started() -> int:
    """Return how many processes torchrun started, 0 where it did not; clusters set WORLD_SIZE for runs of their own."""
    return int(os.environ["WORLD_SIZE"]) if {"WORLD_SIZE", "LOCAL_RANK"} <= set(os.environ) else 0


def index() -> int:
    """Return which of the processes this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return how many processes share this run; those that torchrun started and that have not joined count as one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes what all have found."""
    return index() == 0


def check_joined() -> None:
    """Check that a run which torchrun started as several knows of it.

    Raises:
        RuntimeError: it does not: each process would do all the work.
    """
    started = _started()
    if started > 1 and count() == 1:
        msg = f"torchrun started {started} processes, and each would do the whole work; lay multi_gpu_*.yaml over."
        raise RuntimeError(msg)


def part(items: Sequence[T]) -> Sequence[T]:
    """Return this process's share of a sequence, a run of neighbors; all shares one after another are the sequence."""
    number, total = index(), count()
    return items[len(items) * number // total : len(items) * (number + 1) // total]


def share(number: int) -> int:
    """Return a number of images divided by the processes, at least 1."""
    return max(1, number // count())


def part_of(number: int) -> int:
    """Return this process's share of a number; all shares add up to it."""
    return len(part(range(number)))


def gathered(value: T) -> list[T]:
    """Return every process's value, in their order; all must call it."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """Return the first process's value."""
    if count() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def rows_to_first(rows: Tensor) -> Tensor:
    """Return every process's rows, (N, C), one after another in the first process; in the others none.

    They travel through the CPU's memory.
    """
    if count() == 1:
        return rows
    shapes, rows = gathered(tuple(rows.shape)), rows.cpu()
    width = max(shape[1] for shape in shapes)
    if not is_first():
        if len(rows):
            dist.send(rows.contiguous(), 0)
        return torch.empty(0, width)
    whole = torch.empty(sum(shape[0] for shape in shapes), width, dtype=rows.dtype)
    start = 0
    for number, shape in enumerate(shapes):
        some = whole[start : start + shape[0]]
        if number == 0:
            some.copy_(rows.reshape(len(some), width))
        elif len(some):
            dist.recv(some, number)
        start += shape[0]
    return whole


def joined(items: Sequence[T]) -> list[T]:
    """Return every process's items in one list."""
    return [item for some in gathered(items) for item in some]


def merged(counts: M) -> M:
    """Return what all processes have counted, by its ``merge``; one process's own comes back as it is."""
    first, *others = gathered(counts)
    for other in others:
        first.merge(other)
    return first


def mean(value: float) -> float:
    """Return the mean of every process's value."""
    values = gathered(float(value))
    return sum(values) / len(values)


def wait() -> None:
    """Wait until every process is here."""
    gathered(None)


def copy_from_first(module: nn.Module) -> None:
    """Give the parameters and buffers of a module the values they have in the first process."""
    if count() > 1:
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor, 0)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes: as if one had seen every share of the batch.

    A parameter that has a gradient in one process has one in all.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if count() == 1 or not gradients:
        return
    for kind in {gradient.dtype for gradient in gradients}:
        some = [gradient for gradient in gradients if gradient.dtype == kind]
        flat = torch.cat([gradient.flatten() for gradient in some])
        dist.all_reduce(flat)
        flat /= count()
        for gradient, mean_gradient in zip(some, torch.split(flat, [g.numel() for g in some]), strict=True):
            gradient.copy_(mean_gradient.view_as(gradient))
