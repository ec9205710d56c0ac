"""Transforms, each a pure function, an array class and a dictionary class."""

from .anomaly_score import AnomalyScore, AnomalyScored, anomaly_score
from .calibrate import CalibrateAnomalyMap, CalibrateAnomalyMapd, calibrate_anomaly_map
from .check_image import CheckImage, CheckImaged, check_image
from .field_of_view_mask import FieldOfViewMask, FieldOfViewMaskd, field_of_view_mask
from .lesion_mask import LoadLesionMask, LoadLesionMaskd, lesion_mask
from .resize_images import resize_images

__all__ = [
    "AnomalyScore",
    "AnomalyScored",
    "CalibrateAnomalyMap",
    "CalibrateAnomalyMapd",
    "CheckImage",
    "CheckImaged",
    "FieldOfViewMask",
    "FieldOfViewMaskd",
    "LoadLesionMask",
    "LoadLesionMaskd",
    "anomaly_score",
    "calibrate_anomaly_map",
    "check_image",
    "field_of_view_mask",
    "lesion_mask",
    "resize_images",
]
