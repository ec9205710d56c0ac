"""B-scans, single or as volumes, as bundles take them in that look at the whole scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    CopyItemsd,
    LoadImaged,
    MapTransform,
    Resized,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Transform,
)
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.keys import FILE_READER
from monai_anomaly.transforms.check_image import CheckImaged
from monai_anomaly.transforms.depth_first import DepthFirstd
from monai_anomaly.transforms.fill_mask import fill_of_scans
from monai_anomaly.transforms.retina_mask import RetinaMaskd


class GrayScan(Transform):
    """Return the mean of the channels, (1, ...), float32, with white fill around turned B-scans made black.

    Args:
        fill_value: lowest value of the fill, see `fill_mask`; None for none.
        depth_axis: spatial axis along which A-scans run.
    """

    def __init__(self, fill_value: float | None = None, depth_axis: int = 0) -> None:
        self.fill_value, self.depth_axis = fill_value, check_option("depth_axis", depth_axis, (0, 1, 2))

    def __call__(self, data: Tensor) -> Tensor:
        """Return the gray image."""
        plain = convert_to_tensor(data)
        gray = plain.float().mean(0, keepdim=True)
        if self.fill_value is not None:
            gray = torch.where(fill_of_scans(plain, self.fill_value, self.depth_axis), 0.0, gray)
        return convert_to_dst_type(gray, data, dtype=torch.float32)[0]


class GrayScand(MapTransform):
    """Dictionary version of `GrayScan`."""

    def __init__(
        self,
        keys: KeysCollection,
        fill_value: float | None = None,
        depth_axis: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = GrayScan(fill_value, depth_axis)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with gray images."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


def b_scan_loading(
    dimensions: int = 2,
    intensity_max: float = 255.0,
    fill_value: float | None = 250.0,
    percentiles: Sequence[float] = (0.0, 100.0),
    reader: Any = None,
    retina: bool = True,
) -> Compose:
    """Return what loads "image", keeps it as "raw", makes it gray in [0, 1], and adds a picture's "retina", its mask.

    Args:
        dimensions: 2 for pictures, rows first, 3 for volumes.
        intensity_max: full scale of pictures.
        fill_value: lowest value of white fill in pictures, where 255 is the full scale, see `fill_mask`; None for none.
        percentiles: of a volume's values, mapped to 0 and 1.
        reader: handed to MONAI's LoadImaged; by default `monai_anomaly.data.FileReader`.
        retina: whether the mask is wanted.

    Raises:
        ValueError: dimensions other than 2 and 3, or percentiles that do not increase within 0 to 100.
    """
    check_option("dimensions", dimensions, (2, 3))
    if dimensions == 3:
        lower, upper = percentiles
        check_range("lower percentile", lower, 0, 100)
        check_range("upper percentile", upper, lower, 100, low_open=True)
        scaling: list[Any] = [
            CheckImaged("image", num_channels=1),
            CopyItemsd("image", names="raw"),
            ScaleIntensityRangePercentilesd("image", lower, upper, 0, 1, clip=True),
        ]
    else:
        fill = None if fill_value is None else fill_value / 255
        scaling = [
            CheckImaged("image", intensity_max=intensity_max),
            CopyItemsd("image", names="raw"),
            ScaleIntensityRanged("image", 0, intensity_max, 0, 1, clip=True),
            *([RetinaMaskd("image", fill_value=fill)] if retina else []),
            GrayScand("image", fill_value=fill),
        ]
    return Compose([LoadImaged("image", reader=reader or FILE_READER, ensure_channel_first=True), *scaling])


def b_scan_geometry(
    image_size: Sequence[int],
    dimensions: int = 2,
    axes: Sequence[int] = (1, 0, 2),
    retina: bool = True,
    keys: Sequence[str] = ("image", "retina", "target"),
) -> Compose:
    """Return what turns volumes to (rows, A-scans, B-scans), adds their "retina", and resizes B-scans; it inverts.

    Args:
        image_size: rows and A-scans of the result.
        dimensions: see `b_scan_loading`.
        axes: of volumes, see `oct_geometry`.
        retina: whether a volume's mask is wanted.
        keys: of what is turned, as far as it is there; all but "image" hold classes.

    Raises:
        ValueError: axes that are not 0, 1, 2 in some order.
    """
    pictures = [key == "image" for key in keys]
    if dimensions == 2:
        modes = ["bilinear" if picture else "nearest" for picture in pictures]
        return Compose([Resized(keys, image_size, mode=modes, anti_aliasing=pictures, allow_missing_keys=True)])
    modes = ["trilinear" if picture else "nearest" for picture in pictures]
    return Compose(
        [
            DepthFirstd(keys, axes, allow_missing_keys=True),
            *([RetinaMaskd("image")] if retina else []),
            Resized(keys, [*image_size, -1], mode=modes, allow_missing_keys=True),
        ]
    )
