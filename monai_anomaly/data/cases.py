"""Cases one by one, where a bad one becomes a failure record instead of an end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.data import list_data_collate
from torch.utils.data import Dataset

from monai_anomaly import ranks
from monai_anomaly.checks import root_cause
from monai_anomaly.keys import CASE, DONE, FAILURE

logger = logging.getLogger(__name__)


class CaseDataset(Dataset):
    """Records put through a transform; one that cannot be read becomes ``{"case": …, "failure": reason}``.

    Cases in ``done`` are not read: they become ``{"case": …, "done": True}``.

    Args:
        data: records, each with "case".
        transform: a MONAI transform of dictionaries.
        shared: among the processes of a run, each of which has a run of neighbors.

    Raises:
        ValueError: fewer records than processes that share them.
    """

    def __init__(
        self, data: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any], shared: bool = False
    ) -> None:
        self.data = list(ranks.part(data) if shared else data)
        if shared and len(data) < ranks.count():
            msg = f"{len(data)} cases for {ranks.count()} processes; start fewer (--nproc_per_node)."
            raise ValueError(msg)
        self.transform = transform
        self.done: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        record = self.data[index]
        if record[CASE] in self.done:
            return {CASE: record[CASE], DONE: True}
        try:
            return self.transform(dict(record))
        except Exception as error:  # noqa: BLE001 - whatever a file does, the other cases go on
            return {CASE: record[CASE], FAILURE: root_cause(error)}


def collate_case(batch: list[Any]) -> Any:
    """Collate a batch of one case: arrays gain the batch dimension, lists of file names are a list for each name.

    So MONAI's ``decollate_batch`` gives the one case back, lists as they were.
    """
    if len(batch) != 1:
        msg = f"Cases are processed one at a time (batch_size 1), got a batch of {len(batch)}."
        raise ValueError(msg)
    if FAILURE in batch[0] or DONE in batch[0]:
        return batch[0]
    kept = {key: value for key, value in batch[0].items() if isinstance(value, (str, list, tuple))}
    arrays = {key: value for key, value in batch[0].items() if key not in kept}
    listed = {key: [value] if isinstance(value, str) else _each_in_a_list(value) for key, value in kept.items()}
    return {**list_data_collate([arrays]), **listed}


def _each_in_a_list(values: Sequence[Any]) -> list[list[Any]]:
    return [[value] for value in values] or [[]]
