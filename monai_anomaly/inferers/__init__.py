"""How a detector meets an image or a volume."""

from .anomaly_map import AnomalyMapInferer
from .volume_slice import VolumeSliceInferer

__all__ = ["AnomalyMapInferer", "VolumeSliceInferer"]
