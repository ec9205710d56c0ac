"""Batches that the processes of a run share out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from monai.data import DataLoader
from torch.utils.data import Dataset, Sampler

from monai_anomaly import ranks


class SharedBatchesLoader(DataLoader):
    """MONAI's DataLoader of this process's share of each batch, of the batches that one process alone would draw.

    The order comes from ``seed`` and the epoch, the same in all processes; every item's random transforms are seeded by
    its place in that order, so that it is the same item in whichever process. A last batch that does not part evenly
    is filled up with items of its own.

    Args:
        dataset: that all processes have whole.
        batch_size: of all processes together, a multiple of their number.
        shuffle: every epoch anew.
        drop_last: leave a last batch out that is not full.
        seed: of order and transforms.
        kwargs: of MONAI's DataLoader.

    Raises:
        ValueError: the batch does not part evenly among the processes.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        total = ranks.count()
        if batch_size < 1 or batch_size % total:
            near = max(1, round(batch_size / total)) * total
            msg = (
                f"batch_size {batch_size} is shared by {total} processes; set a multiple of them (--batch_size {near})."
            )
            raise ValueError(msg)
        self.share = _Share(len(dataset), batch_size, shuffle, drop_last, seed)  # type: ignore[arg-type]
        super().__init__(_SeededItems(dataset), batch_size=batch_size // total, sampler=self.share, **kwargs)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader which epoch comes next; loaders that draw from torch's own state need not know."""
    if isinstance(loader, SharedBatchesLoader):
        loader.share.epoch = epoch


class _Share(Sampler[tuple[int, int]]):
    """This process's share of each batch, one after another: pairs (index, seed)."""

    def __init__(self, num_items: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int) -> None:
        self.batch_size, self.shuffle, self.seed, self.epoch = batch_size, shuffle, seed, 0
        self.num_items = num_items
        self.num_used = num_items // batch_size * batch_size if drop_last else num_items

    def __len__(self) -> int:
        return (self.num_used + ranks.count() - 1) // ranks.count()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        seed = self.seed + 1_000_003 * self.epoch
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.num_items, generator=generator) if self.shuffle else torch.arange(self.num_items)
        drawn = list(zip(order.tolist(), range(seed, seed + self.num_items), strict=True))
        total = ranks.count()
        for start in range(0, self.num_used, self.batch_size):
            batch = drawn[start : min(start + self.batch_size, self.num_used)]
            even = -(-len(batch) // total) * total
            yield from ranks.part([batch[place % len(batch)] for place in range(even)])


class _SeededItems(Dataset):
    """Items whose random transforms begin with a seed of their own."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.random = list(_random_parts(dataset))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, drawn: tuple[int, int]) -> Any:
        index, seed = drawn
        for number, one in enumerate(self.random):
            one.set_random_state(seed=(seed + number) % 2**32)
        return self.dataset[index]


def _random_parts(thing: Any) -> Iterator[Any]:
    """Yield what MONAI's ``set_rnd`` would seed: it looks for them at every call, through all that a data set holds."""
    if hasattr(thing, "set_random_state"):
        yield thing
    elif isinstance(thing, (list, tuple)):
        for one in thing:
            yield from _random_parts(one)
    elif hasattr(thing, "__dict__"):
        for name, one in vars(thing).items():
            if not name.startswith("__"):
                yield from _random_parts(one)
