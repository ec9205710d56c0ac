"""Anomaly maps on the scale of healthy images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import Tensor

from monai_anomaly.checks import check_range


def calibrate_anomaly_map(anomaly_map: Tensor, lower: float, upper: float) -> Tensor:
    """Return the map scaled so that ``lower`` becomes 0 and ``upper`` 1, clipped to [0, 1].

    Args:
        anomaly_map: any shape, in the detector's units.
        lower: value of an ordinary healthy pixel.
        upper: value that hardly any healthy pixel exceeds, > lower.

    Raises:
        ValueError: upper <= lower.
    """
    check_range("upper", upper, lower, low_open=True)
    return ((anomaly_map - lower) / (upper - lower)).clamp(0, 1)


class CalibrateAnomalyMap(Transform):
    """Scale a map to [0, 1] by values seen on healthy images.

    Args:
        calibration: what maps a tensor to [0, 1]: a fitted detector's ``calibration``
            (`monai_anomaly.networks.blocks.HealthyCalibration`), or a pair (lower, upper) in the detector's units.

    Raises:
        ValueError: a pair that does not increase.
    """

    def __init__(self, calibration: Callable[[Tensor], Tensor] | tuple[float, float]) -> None:
        if callable(calibration):
            self.calibration = calibration
            return
        lower, upper = calibration
        check_range("upper", upper, lower, low_open=True)
        self.calibration = lambda anomaly_map: calibrate_anomaly_map(anomaly_map, lower, upper)

    def __call__(self, data: Tensor) -> Tensor:
        """Return the map in [0, 1]."""
        return self.calibration(data)


class CalibrateAnomalyMapd(MapTransform):
    """Dictionary version of `CalibrateAnomalyMap`.

    Args:
        keys: of the maps.
        calibration: see `CalibrateAnomalyMap`.
        allow_missing_keys: do nothing where a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        calibration: Callable[[Tensor], Tensor] | tuple[float, float],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = CalibrateAnomalyMap(calibration)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the maps in [0, 1]."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result
