"""How a network meets an image or a volume."""

from .anomaly_map import AnomalyMapInferer
from .collating import CollatingInferer
from .grad_cam import LesionMapInferer, SmoothedGradCAM
from .label_slices import LabelSliceInferer
from .method import MethodInferer
from .selective_cut import CutSliceInferer
from .volume_slice import VolumeSliceInferer

__all__ = [
    "AnomalyMapInferer",
    "CollatingInferer",
    "CutSliceInferer",
    "LabelSliceInferer",
    "LesionMapInferer",
    "MethodInferer",
    "SmoothedGradCAM",
    "VolumeSliceInferer",
]
