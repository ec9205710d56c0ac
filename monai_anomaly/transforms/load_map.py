"""Anomaly maps from files, beside the images they were made of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_same_grid
from monai_anomaly.keys import FILE_READER


class LoadAnomalyMap(Transform):
    """Load a calibrated anomaly map and check that it is one of the image.

    Args:
        reader: handed to MONAI's LoadImage; by default `monai_anomaly.data.FileReader`.

    Shape:
        output (1, ...) on the image's grid, float32 in [0, 1].

    Raises:
        ValueError: a map on another grid, of more than one channel, not finite, or outside [0, 1].
    """

    def __init__(self, reader: Any = None) -> None:
        self.loader = LoadImage(reader=reader or FILE_READER, image_only=True, ensure_channel_first=True)

    def __call__(self, file: str | Path, image: Tensor) -> MetaTensor:
        """Return the map.

        Args:
            file: of the map.
            image: (C, ...) whose grid it has to lie on.
        """
        found = self.loader(file)
        check_same_grid(f"The anomaly map {Path(file).name}", image, found)
        values = convert_to_tensor(found).float()
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-4 and high <= 1 + 1e-4):  # NaN is not, either
            msg = (
                f"The anomaly map {Path(file).name} has values from {low:g} to {high:g}; guidance wants calibrated "
                f"maps in [0, 1]: make them with anomaly_maps.yaml, or --calibrated True."
            )
            raise ValueError(msg)
        return MetaTensor(values.clamp(0, 1), affine=found.affine)


class LoadAnomalyMapd(MapTransform):
    """Dictionary version of `LoadAnomalyMap`: files under ``keys`` become maps on the grid of ``ref_key``."""

    def __init__(
        self,
        keys: KeysCollection,
        ref_key: str = "image",
        reader: Any = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_key = ref_key
        self.transform = LoadAnomalyMap(reader)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with maps in place of files."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key], result[self.ref_key])
        return result
