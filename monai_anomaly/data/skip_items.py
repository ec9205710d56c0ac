"""A data set whose first items are done."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from monai_anomaly.keys import CASE, DONE


class SkipItems(Dataset):
    """Items of another data set; those before ``first`` are not read: they become ``{"case": "", "done": True}``.

    Args:
        dataset: with a length.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.first = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return {CASE: "", DONE: True} if index < self.first else self.dataset[index]
