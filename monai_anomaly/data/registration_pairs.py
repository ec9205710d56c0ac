"""Healthy images beside those they are registered to."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from monai.data.utils import set_rnd
from monai.transforms import Randomizable
from torch.utils.data import Dataset

from monai_anomaly.checks import check_range


class RegistrationPairs(Randomizable, Dataset):
    """Each image with a healthy one drawn at random, anew at every use (Andresen et al. 2024).

    Args:
        fixed: data set of mappings with "image" and "retina", what is registered to.
        moving: data set of healthy ones.
        position_key: of what both of a pair have in common, such as the number of the B-scan in its volume; None for
            any. Every item is read once for it. Central B-scans, which the authors draw more often, are a matter of
            the data loader's sampler.

    Raises:
        ValueError: no images, or none healthy at a position.
    """

    def __init__(self, fixed: Any, moving: Any, position_key: str | None = None) -> None:
        check_range("number of images to register to", len(fixed), 1)
        check_range("number of healthy images", len(moving), 1)
        self.fixed, self.moving, self.position_key = fixed, moving, position_key
        self._positions = [self._position(fixed, index) for index in range(len(fixed))]
        self._at: dict[Any, list[int]] = defaultdict(list)
        for index in range(len(moving)):
            self._at[self._position(moving, index)].append(index)
        lacking = set(self._positions) - set(self._at)
        if lacking:
            listed = ", ".join(map(str, sorted(lacking)[:5]))
            msg = f"No healthy image at {position_key} {listed}; give healthy volumes of as many B-scans."
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.fixed)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in range(len(self)):
            raise IndexError(index)
        choices = self._at[self._positions[index]]
        fixed, moving = self.fixed[index], self.moving[choices[self.R.randint(len(choices))]]
        return {
            "moving": moving["image"],
            "moving_retina": moving["retina"],
            "fixed": fixed["image"],
            "fixed_retina": fixed["retina"],
        }

    def _position(self, images: Any, index: int) -> Any:
        if self.position_key is None:
            return None
        position = images[index][self.position_key]
        return position.item() if hasattr(position, "item") else position

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RegistrationPairs:
        """Set the random state of the draws, and of random transforms in both data sets."""
        super().set_random_state(seed, state)
        for images in (self.fixed, self.moving):
            set_rnd(images, int(self.R.randint(2**31)))
        return self
