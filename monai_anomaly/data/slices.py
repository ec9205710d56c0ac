"""Volumes as 2-D training images, in any order, without keeping them all in memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.keys import CASE, FAILURE
from monai_anomaly.transforms.resize_images import resize_images

logger = logging.getLogger(__name__)


class SliceDataset(Dataset):
    """A map-style data set of a volume data set's slices: it has a length, an index, and shuffles across volumes.

    The index is made by reading each volume once; afterwards ``cache_size`` volumes stay in memory, so that reading in
    order reads each volume once more.

    Args:
        volumes: data set of records with "image" (C, I, J, K), and "label" (1, I, J, K) for lesion-free slices.
        slice_axis: voxel axis slices follow one another along, 0 to 2, or a function of the image that tells it.
        keep: "all"; "content": slices where at least ``min_content_fraction`` of the pixels differ from the volume's
            background; "healthy": those of them without a labeled pixel.
        image_size: height and width slices are resized to, None for as they are.
        min_content_fraction: of a slice's pixels that must differ from the volume's lowest value, in [0, 1].
        step: take every ``step``-th of the slices kept, at least 1.
        cache_size: volumes kept in memory, at least 1.

    Raises:
        ValueError: an unknown ``keep``, numbers out of range, or no slice left.
    """

    def __init__(
        self,
        volumes: Dataset,
        slice_axis: int | Callable[[Tensor], int] = 2,
        keep: str = "healthy",
        image_size: Sequence[int] | None = None,
        min_content_fraction: float = 0.1,
        step: int = 1,
        cache_size: int = 1,
    ) -> None:
        self.volumes = volumes
        self.slice_axis = slice_axis
        self.keep = check_option("keep", keep, ("all", "content", "healthy"))
        self.image_size = image_size
        check_range("min_content_fraction", min_content_fraction, 0, 1)
        check_range("step", step, 1)
        check_range("cache_size", cache_size, 1)
        self.min_content_fraction = min_content_fraction
        self.cache_size = cache_size
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self.index: list[tuple[int, int]] = []
        total = len(volumes)  # type: ignore[arg-type]
        for number in tqdm(range(total), desc="index slices", unit="volume", disable=None):
            self.index += [(number, position) for position in self._kept(number)[::step]]
        if not self.index:
            msg = (
                f"None of the {total} volumes has a slice to keep ({keep!r}); check slice_axis, the labels, "
                f"or lower min_content_fraction ({min_content_fraction})."
            )
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, position = self.index[index]
        volume = self._volume(number)
        if FAILURE in volume:
            return dict(volume)
        image = convert_to_tensor(volume["image"]).select(self._axis(volume["image"]) + 1, position)
        if self.image_size is not None:
            image = resize_images(image[None].float(), self.image_size)[0]
        return {"image": image.contiguous(), CASE: f"{volume.get(CASE, number)}[{position}]"}

    def _kept(self, number: int) -> list[int]:
        volume = self._volume(number)
        if FAILURE in volume:
            return [0]  # kept, so that it is reported where the slices are used
        axis = self._axis(volume["image"])
        image = convert_to_tensor(volume["image"]).movedim(axis + 1, 0).flatten(1)
        kept = torch.ones(len(image), dtype=torch.bool)
        if self.keep != "all":
            kept &= (image > image.min()).float().mean(1) >= self.min_content_fraction
        if self.keep == "healthy" and "label" in volume:
            kept &= convert_to_tensor(volume["label"]).movedim(axis + 1, 0).flatten(1).amax(1) == 0
        return kept.nonzero().flatten().tolist()

    def _axis(self, image: Tensor) -> int:
        return self.slice_axis(image) if callable(self.slice_axis) else self.slice_axis

    def _volume(self, number: int) -> Any:
        if number not in self._cache:
            while len(self._cache) >= self.cache_size:
                self._cache.popitem(last=False)
            self._cache[number] = self.volumes[number]
        self._cache.move_to_end(number)
        return self._cache[number]
