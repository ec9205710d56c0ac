"""Volumes as 2-D training images, in any order, without keeping them all in memory."""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.keys import CASE, FAILURE
from monai_anomaly.transforms.content_mask import content_mask
from monai_anomaly.transforms.resize_images import resize_images

logger = logging.getLogger(__name__)


class SliceDataset(Dataset):
    """A map-style data set of a volume data set's slices: it has a length, an index, and shuffles across volumes.

    The index is made by reading each volume once. Afterwards either ``cache_size`` volumes stay in memory, so that
    reading in order reads each volume once more; or, with ``cache="slices"``, all slices kept do, at their final size
    (4 bytes per pixel: 0.1 MB for 160 x 160), so that they may be read in any order at once. ``cache_dir`` puts them
    into files that are mapped into memory, and deleted with the data set.

    ``kinds`` says of each slice "healthy" (no labeled pixel), "abnormal", "unlabeled" (of a volume of that group), or
    "failure"; ``failures`` holds (case, reason) of volumes that could not be read.

    Args:
        volumes: data set of records with "image" (C, I, J, K), and "label" (1, I, J, K) for the slices' kinds.
        slice_axis: voxel axis slices follow one another along, 0 to 2, or a function of the image that tells it.
        keep: "all"; "content": slices where any pixel, and at least ``min_content_fraction`` of them, is above the
            volume's background; "healthy": those of them without a labeled pixel; "abnormal": all slices with one.
        image_size: height and width slices are resized to, None for as they are.
        min_content_fraction: of a slice's pixels that must be above the volume's background, in [0, 1].
        step: take every ``step``-th of the slices kept, at least 1.
        cache: "volumes" or "slices".
        cache_size: volumes kept in memory, at least 1.
        cache_dir: folder for the files of ``cache="slices"``, None for memory.
        keys: of the arrays each slice has, the image first; the others only where the volume has them.
        label_key: of the labels that tell a slice's kind.
        healthy_values: labels from 0 to this are no lesion.
        unlabeled_value: slices whose label is this all over are left out: nobody labeled them; None for no such value.

    Raises:
        ValueError: an unknown ``keep`` or ``cache``, numbers out of range, other arrays than the image resized, or no
            slice left.
    """

    def __init__(
        self,
        volumes: Dataset,
        slice_axis: int | Callable[[Tensor], int] = 2,
        keep: str = "healthy",
        image_size: Sequence[int] | None = None,
        min_content_fraction: float = 0.1,
        step: int = 1,
        cache: str = "volumes",
        cache_size: int = 1,
        cache_dir: str | Path | None = None,
        keys: Sequence[str] = ("image",),
        label_key: str = "label",
        healthy_values: int = 0,
        unlabeled_value: int | None = None,
    ) -> None:
        self.volumes = volumes
        self.slice_axis = slice_axis
        self.keep = check_option("keep", keep, ("all", "content", "healthy", "abnormal"))
        check_range("number of keys", len(keys), 1, len(keys) if image_size is None else 1)
        self.keys, self.label_key, self.healthy_values = tuple(keys), label_key, healthy_values
        self.unlabeled_value = unlabeled_value
        self.image_size = image_size
        check_range("min_content_fraction", min_content_fraction, 0, 1)
        check_range("step", step, 1)
        check_range("cache_size", cache_size, 1)
        self.min_content_fraction = min_content_fraction
        self.step = step
        self.cache_size = cache_size
        self._cache: OrderedDict[int, Any] = OrderedDict()
        check_option("cache", cache, ("volumes", "slices"))
        self._slices: list[dict[str, Tensor]] | None = [] if cache == "slices" else None
        self._folder = None if cache_dir is None else Path(tempfile.mkdtemp(dir=cache_dir, prefix="slices_"))
        if self._folder is not None:
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.index: list[tuple[int, int]] = []
        self.kinds: list[str] = []
        self.failures: list[tuple[str, str]] = []
        self._make_index()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, position = self.index[index]
        name = {CASE: f"{self._names[number]}[{position}]"}
        if self._slices is not None:
            return {**self._slices[index], **name}
        volume = self._volume(number)
        if FAILURE in volume:
            return dict(volume)
        return {**self._taken(volume, [position])[0], **name}

    def _make_index(self) -> None:
        total = len(self.volumes)  # type: ignore[arg-type]
        self._names: list[Any] = []
        for number in tqdm(range(total), desc="index slices", unit="volume", disable=None):
            volume = self._volume(number)
            self._names.append(volume.get(CASE, number))
            if FAILURE in volume:
                self.failures.append((volume[CASE], volume[FAILURE]))
                if self._slices is None:  # kept, so that it is reported where the slices are used
                    self.index.append((number, 0))
                    self.kinds.append("failure")
                continue
            kinds = self._kinds_of(volume)
            self.index += [(number, position) for position in kinds]
            self.kinds += kinds.values()
            if self._slices is not None and kinds:
                self._slices += self._store(number, self._taken(volume, list(kinds)))
        if not self.index:
            reasons = "; ".join(f"{case}: {reason}" for case, reason in self.failures[:3])
            msg = (
                f"None of the {total} volumes has a slice to keep ({self.keep!r}); check slice_axis, the labels, "
                f"or lower min_content_fraction ({self.min_content_fraction}).{' ' + reasons if reasons else ''}"
            )
            raise ValueError(msg)

    def _kinds_of(self, volume: Any) -> dict[int, str]:
        """Return the slices kept of a volume, by position, with their kinds."""
        axis = self._axis(volume["image"])
        kept = torch.ones(volume["image"].shape[axis + 1], dtype=torch.bool)
        if self.keep in ("content", "healthy"):
            content = content_mask(volume["image"])[0].movedim(axis, 0).flatten(1)
            kept &= content.any(1) & (content.float().mean(1) >= self.min_content_fraction)
        marked = torch.zeros_like(kept)
        if self.label_key in volume:
            by_slice = convert_to_tensor(volume[self.label_key]).movedim(axis + 1, 0).flatten(1)
            marked = by_slice.amax(1) > self.healthy_values
            if self.unlabeled_value is not None:
                unlabeled = (by_slice == self.unlabeled_value).all(1)
                kept, marked = kept & ~unlabeled, marked & ~unlabeled
        if self.keep in ("healthy", "abnormal"):
            kept &= marked if self.keep == "abnormal" else ~marked
        unknown = volume.get("group") == "unlabeled"
        kinds = ["unlabeled" if unknown else "abnormal" if m else "healthy" for m in marked.tolist()]
        return {position: kinds[position] for position in kept.nonzero().flatten().tolist()[:: self.step]}

    def _taken(self, volume: Any, positions: list[int]) -> list[dict[str, Tensor]]:
        """Return slices, (C, H, W) by key, the image at its final size."""
        axis = self._axis(volume["image"])
        found: list[dict[str, Tensor]] = [{} for _ in positions]
        for key in self.keys:
            if key in volume:
                slices = convert_to_tensor(volume[key]).movedim(axis + 1, 0)[positions]
                if self.image_size is not None:
                    slices = resize_images(slices.float(), self.image_size)
                for item, one in zip(found, slices.contiguous(), strict=True):
                    item[key] = one
        return found

    def _store(self, number: int, slices: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return the slices for keeping, mapped from files where there is a folder for them."""
        if self._folder is None:
            return slices
        for key in slices[0]:
            file = self._folder / f"{number}_{key}.npy"
            np.save(file, torch.stack([one[key] for one in slices]).numpy())
            for one, mapped in zip(slices, torch.from_numpy(np.load(file, mmap_mode="r+")), strict=True):
                one[key] = mapped
        return slices

    def _axis(self, image: Tensor) -> int:
        return self.slice_axis(image) if callable(self.slice_axis) else self.slice_axis

    def _volume(self, number: int) -> Any:
        if number not in self._cache:
            while len(self._cache) >= self.cache_size:
                self._cache.popitem(last=False)
            self._cache[number] = self.volumes[number]
        self._cache.move_to_end(number)
        return self._cache[number]
