"""Transforms, each a pure function, an array class and a dictionary class."""

from .anomaly_score import AnomalyScore, AnomalyScored, anomaly_score
from .b_scan import GrayScan, GrayScand, b_scan_geometry, b_scan_loading
from .brain_mask import BrainMask, BrainMaskd, brain_mask
from .bruchs_membrane import estimate_bruchs_membrane, estimate_inner_surface
from .calibrate import CalibrateAnomalyMap, CalibrateAnomalyMapd, calibrate_anomaly_map
from .check_image import CheckImage, CheckImaged, check_image
from .clahe import CLAHE, CLAHEd, clahe
from .class_numbers import ClassNumbers, ClassNumbersd, class_numbers, present_classes
from .clean_mask import ConfirmMask, ConfirmMaskd, OpenMask, OpenMaskd, confirm_mask, open_mask
from .content_mask import background_value, content_mask
from .depth_first import DepthFirstd, oct_axes
from .field_of_view_mask import FieldOfViewMask, FieldOfViewMaskd, field_of_view_mask
from .fill_mask import fill_mask
from .flatten import FlattenToBruchsMembrane, FlattenToBruchsMembraned, shift_a_scans
from .guided_filter import GuidedFilter, GuidedFilterd, guided_filter
from .lesion_mask import LoadLesionMask, LoadLesionMaskd, lesion_mask
from .load_map import LoadAnomalyMap, LoadAnomalyMapd
from .oct_volume import oct_geometry, oct_loading
from .organ_mask import MaskToOrgan, MaskToOrgand, mask_to_organ
from .peak_threshold import HistogramPeakThreshold, HistogramPeakThresholdd, histogram_peaks, peak_threshold
from .perlin import perlin_noise
from .poisson_blend import RandPoissonBlend, RandPoissonBlendd, change_label
from .poisson_solver import poisson_blend
from .pseudo_label import MapsToPseudoLabel, MapsToPseudoLabeld, gate_maps, pseudo_label
from .resize_images import resize_images
from .retina_mask import RetinaMask, RetinaMaskd, retina_mask
from .synthetic_lesion import RandSyntheticLesion, RandSyntheticLesiond, fusion_weights, perlin_mask, self_mix
from .tissue_classes import TissueClasses, TissueClassesd, tissue_classes

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
    "ClassNumbers",
    "ClassNumbersd",
    "ConfirmMask",
    "ConfirmMaskd",
    "DepthFirstd",
    "FieldOfViewMask",
    "FieldOfViewMaskd",
    "FlattenToBruchsMembrane",
    "FlattenToBruchsMembraned",
    "GrayScan",
    "GrayScand",
    "GuidedFilter",
    "GuidedFilterd",
    "HistogramPeakThreshold",
    "HistogramPeakThresholdd",
    "LoadAnomalyMap",
    "LoadAnomalyMapd",
    "LoadLesionMask",
    "LoadLesionMaskd",
    "MapsToPseudoLabel",
    "MapsToPseudoLabeld",
    "MaskToOrgan",
    "MaskToOrgand",
    "OpenMask",
    "OpenMaskd",
    "RandPoissonBlend",
    "RandPoissonBlendd",
    "RandSyntheticLesion",
    "RandSyntheticLesiond",
    "RetinaMask",
    "RetinaMaskd",
    "TissueClasses",
    "TissueClassesd",
    "anomaly_score",
    "b_scan_geometry",
    "b_scan_loading",
    "background_value",
    "brain_mask",
    "calibrate_anomaly_map",
    "change_label",
    "check_image",
    "clahe",
    "class_numbers",
    "confirm_mask",
    "content_mask",
    "estimate_bruchs_membrane",
    "estimate_inner_surface",
    "field_of_view_mask",
    "fill_mask",
    "fusion_weights",
    "gate_maps",
    "guided_filter",
    "histogram_peaks",
    "lesion_mask",
    "mask_to_organ",
    "oct_axes",
    "oct_geometry",
    "oct_loading",
    "open_mask",
    "peak_threshold",
    "perlin_mask",
    "perlin_noise",
    "poisson_blend",
    "present_classes",
    "pseudo_label",
    "resize_images",
    "retina_mask",
    "self_mix",
    "shift_a_scans",
    "tissue_classes",
]
