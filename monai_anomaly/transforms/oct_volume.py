"""OCT volumes as the bundles that work on flattened B-scans take them in."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import (
    Compose,
    CopyItemsd,
    LoadImaged,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
)

from monai_anomaly.checks import check_range
from monai_anomaly.keys import ANOMALY_MAP, FILE_READER
from monai_anomaly.transforms.check_image import CheckImaged
from monai_anomaly.transforms.depth_first import DepthFirstd
from monai_anomaly.transforms.flatten import FlattenToBruchsMembraned
from monai_anomaly.transforms.load_map import LoadAnomalyMapd
from monai_anomaly.transforms.retina_mask import RetinaMaskd


def oct_loading(
    percentiles: Sequence[float] = (0.0, 100.0), reader: str | None = None, in_channels: int = 1
) -> Compose:
    """Return what loads "image", keeps it untouched as "raw", loads its "anomaly_map", if any, and scales to [0, 1].

    Args:
        percentiles: of a volume's values, mapped to 0 and 1; what lies beyond is clipped.
        reader: handed to MONAI's LoadImaged; by default `monai_anomaly.data.FileReader`.
        in_channels: that the image has to have.

    Raises:
        ValueError: percentiles that do not increase within 0 to 100.
    """
    lower, upper = percentiles
    check_range("lower percentile", lower, 0, 100)
    check_range("upper percentile", upper, lower, 100, low_open=True)
    return Compose(
        [
            LoadImaged("image", reader=reader or FILE_READER, ensure_channel_first=True),
            CheckImaged("image", num_channels=in_channels),
            CopyItemsd("image", names="raw"),
            LoadAnomalyMapd(ANOMALY_MAP, allow_missing_keys=True),
            ScaleIntensityRangePercentilesd("image", lower, upper, 0, 1, clip=True),
        ]
    )


def oct_geometry(
    axes: Sequence[int] = (1, 0, 2),
    image_size: Sequence[int] = (496, 512),
    row_fraction: float | None = None,
    labels: Sequence[str] = ("tissue", "retina"),
    retina: bool = False,
) -> Compose:
    """Return what turns volumes to (rows, A-scans, B-scans), flattens them and crops or pads B-scans; it inverts.

    Applies to "image", "anomaly_map" and the labels, those of them that are there.

    Args:
        axes: see `DepthFirstd`.
        image_size: rows and A-scans of the B-scans.
        row_fraction: where Bruch's membrane goes, see `FlattenToBruchsMembrane`.
        labels: keys of what holds classes.
        retina: add "retina", the mask, as the scan shows it before it is flattened.

    Raises:
        ValueError: axes that are not 0, 1, 2 in some order.
    """
    keys = ("image", ANOMALY_MAP, *labels)
    size = [*image_size, -1]
    return Compose(
        [
            DepthFirstd(keys, axes, allow_missing_keys=True),
            *([RetinaMaskd("image")] if retina else []),
            FlattenToBruchsMembraned(keys, row_fraction=row_fraction, allow_missing_keys=True),
            ResizeWithPadOrCropd(keys, size, allow_missing_keys=True),
        ]
    )
