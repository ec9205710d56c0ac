"""Prepared images kept in memory, as far as it goes, and the unreadable ones left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityRanged, ToTensord
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_anomaly.checks import check_range
from monai_anomaly.data.cases import CaseDataset
from monai_anomaly.data.datalist import load_datalist
from monai_anomaly.data.readers import ImageFileReader
from monai_anomaly.keys import CASE, FAILURE

logger = logging.getLogger(__name__)


class CachedImages(Dataset):
    """Images of a data set, prepared once each; those that do not fit into the cache are prepared at every use.

    All are read at the start, so that what cannot be read is known before a training begins: it is in ``failures``, as
    pairs (case, reason), and not in the data set.

    Args:
        images: data set of records with "image", see `CaseDataset`.
        cache_gb: of memory for images, in 10^9 bytes; a 768 x 768 photograph takes 0.007.
        key: of the image.

    Raises:
        ValueError: a negative cache_gb, or no image that can be read.
    """

    def __init__(self, images: Dataset, cache_gb: float = 8.0, key: str = "image") -> None:
        check_range("cache_gb", cache_gb, 0)
        self.images = images
        self.failures: list[tuple[str, str]] = []
        self._index: list[int] = []
        self._cache: dict[int, Any] = {}
        left = cache_gb * 1e9
        for number in tqdm(range(len(images)), desc="read images", unit="image", disable=None):  # type: ignore[arg-type]
            item = images[number]
            if FAILURE in item:
                logger.error("%s failed: %s", item[CASE], item[FAILURE])
                self.failures.append((item[CASE], item[FAILURE]))
                continue
            left -= item[key].numel() * item[key].element_size()
            if left >= 0:
                self._cache[len(self._index)] = item
            self._index.append(number)
        if not self._index:
            reasons = "; ".join(f"{case}: {reason}" for case, reason in self.failures[:5])
            msg = f"None of the {len(images)} images can be read: {reasons}."  # type: ignore[arg-type]
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Any:
        if index not in range(len(self)):
            raise IndexError(index)
        item = self._cache[index] if index in self._cache else self.images[self._index[index]]
        if FAILURE in item:
            msg = f"{item[CASE]} could be read at the start and cannot any more: {item[FAILURE]}"
            raise RuntimeError(msg)
        return dict(item)


def load_textures(root: str | Path | None, image_size: Sequence[int], otherwise: Any, cache_gb: float = 8.0) -> Any:
    """Return pictures to take synthetic lesions from, RGB in [0, 1] (ReSynthDetect, Table 4: DTD).

    Args:
        root: folder of pictures, None for ``otherwise``.
        image_size: height and width they are resized to.
        otherwise: what to return without a folder: the healthy images.
        cache_gb: see `CachedImages`.

    Raises:
        FileNotFoundError: no such folder, or no picture below it.
    """
    if root is None:
        return otherwise
    records = load_datalist(root, "training", "files")
    prepare = Compose(
        [
            LoadImaged("image", reader=ImageFileReader(), ensure_channel_first=True),
            ScaleIntensityRanged("image", 0, 255, 0, 1, clip=True),
            Resized("image", spatial_size=image_size, mode="bilinear"),
            ToTensord("image", track_meta=False),
        ]
    )
    return CachedImages(CaseDataset(records, prepare), cache_gb)
