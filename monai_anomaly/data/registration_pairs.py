"""Healthy images beside those they are registered to."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from monai.transforms import Randomizable
from torch.utils.data import Dataset

from monai_anomaly.checks import check_range


class RegistrationPairs(Randomizable, Dataset):
    """Each image with a healthy one drawn at random, anew at every use (Andresen et al. 2024).

    Args:
        fixed: data set of mappings with "image" and "retina", what is registered to.
        moving: data set of healthy ones.
        position_key: of what both of a pair have in common, such as the number of the B-scan in its volume; None for
            any.

    Raises:
        ValueError: no images, or none healthy at a position.
    """

    def __init__(self, fixed: Any, moving: Any, position_key: str | None = None) -> None:
        check_range("number of images to register to", len(fixed), 1)
        check_range("number of healthy images", len(moving), 1)
        self.fixed, self.moving, self.position_key = fixed, moving, position_key
        self._at: dict[Any, list[int]] = defaultdict(list)
        for index in range(len(moving)):
            self._at[self._position(moving, index)].append(index)
        lacking = {self._position(fixed, index) for index in range(len(fixed))} - set(self._at)
        if lacking:
            listed = ", ".join(map(str, sorted(lacking)[:5]))
            msg = f"No healthy image at {position_key} {listed}; give healthy volumes of as many B-scans."
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.fixed)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in range(len(self)):
            raise IndexError(index)
        choices = self._at[self._position(self.fixed, index)]
        fixed, moving = self.fixed[index], self.moving[choices[self.R.randint(len(choices))]]
        return {
            "moving": moving["image"],
            "moving_retina": moving["retina"],
            "fixed": fixed["image"],
            "fixed_retina": fixed["retina"],
        }

    def _position(self, images: Any, index: int) -> Any:
        return None if self.position_key is None else images[index][self.position_key]
