"""A data set whose first items are done, or are another process's."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from monai_anomaly import ranks
from monai_anomaly.keys import CASE, DONE


class SkipItems(Dataset):
    """Items of another data set; those before ``first`` are not read: they become ``{"case": "", "done": True}``.

    Args:
        dataset: with a length.
        shared: among the processes of a run, each of which has a run of neighbors.
    """

    def __init__(self, dataset: Any, shared: bool = False) -> None:
        self.dataset = dataset
        self.places = ranks.part(range(len(dataset))) if shared else range(len(dataset))
        self.first = 0

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return {CASE: "", DONE: True} if index < self.first else self.dataset[self.places[index]]
