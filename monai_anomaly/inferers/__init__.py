"""How a detector meets an image or a volume."""

from .anomaly_map import AnomalyMapInferer
from .method import MethodInferer
from .selective_cut import CutSliceInferer
from .volume_slice import VolumeSliceInferer

__all__ = ["AnomalyMapInferer", "CutSliceInferer", "MethodInferer", "VolumeSliceInferer"]
