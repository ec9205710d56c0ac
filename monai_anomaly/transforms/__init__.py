"""Transforms, each a pure function, an array class and a dictionary class."""

from .anomaly_score import AnomalyScore, AnomalyScored, anomaly_score
from .brain_mask import BrainMask, BrainMaskd, brain_mask
from .calibrate import CalibrateAnomalyMap, CalibrateAnomalyMapd, calibrate_anomaly_map
from .check_image import CheckImage, CheckImaged, check_image
from .clahe import CLAHE, CLAHEd, clahe
from .clean_mask import ConfirmMask, ConfirmMaskd, OpenMask, OpenMaskd, confirm_mask, open_mask
from .content_mask import background_value, content_mask
from .field_of_view_mask import FieldOfViewMask, FieldOfViewMaskd, field_of_view_mask
from .lesion_mask import LoadLesionMask, LoadLesionMaskd, lesion_mask
from .organ_mask import MaskToOrgan, MaskToOrgand, mask_to_organ
from .peak_threshold import HistogramPeakThreshold, HistogramPeakThresholdd, histogram_peaks, peak_threshold
from .perlin import perlin_noise
from .resize_images import resize_images
from .synthetic_lesion import RandSyntheticLesion, RandSyntheticLesiond, fusion_weights, perlin_mask, self_mix

__all__ = [
    "CLAHE",
    "AnomalyScore",
    "AnomalyScored",
    "BrainMask",
    "BrainMaskd",
    "CLAHEd",
    "CalibrateAnomalyMap",
    "CalibrateAnomalyMapd",
    "CheckImage",
    "CheckImaged",
    "ConfirmMask",
    "ConfirmMaskd",
    "FieldOfViewMask",
    "FieldOfViewMaskd",
    "HistogramPeakThreshold",
    "HistogramPeakThresholdd",
    "LoadLesionMask",
    "LoadLesionMaskd",
    "MaskToOrgan",
    "MaskToOrgand",
    "OpenMask",
    "OpenMaskd",
    "RandSyntheticLesion",
    "RandSyntheticLesiond",
    "anomaly_score",
    "background_value",
    "brain_mask",
    "calibrate_anomaly_map",
    "check_image",
    "clahe",
    "confirm_mask",
    "content_mask",
    "field_of_view_mask",
    "fusion_weights",
    "histogram_peaks",
    "lesion_mask",
    "mask_to_organ",
    "open_mask",
    "peak_threshold",
    "perlin_mask",
    "perlin_noise",
    "resize_images",
    "self_mix",
]
