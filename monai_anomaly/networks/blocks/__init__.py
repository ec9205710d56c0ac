"""Parts that more than one network is built of."""

from .attention_gate import AttentionGate
from .conv_stage import ConvStage
from .fused import fuse_batch_norm
from .healthy_calibration import HealthyCalibration
from .k_center_greedy import k_center_greedy
from .local_self_attention import LocalSelfAttention
from .lr_aspp import LRASPPHead, TwoSkipDecoder
from .memory_bank import MemoryBank
from .mobilenet_v3 import MobileNetV3, load_mobilenet_weights
from .multi_level_features import MultiLevelFeatures
from .named_classes import NamedClasses
from .nearest_neighbors import nearest_neighbors
from .random_projection import johnson_lindenstrauss_dim, sparse_random_projection
from .region_spatial_combination import RegionFilter, RegionSpatialCombination, SpatialSelfAttention
from .residual_map import residual, smoothed
from .wide_resnet import ResNet2d, imagenet_statistics, load_resnet_weights, load_trunk_weights, wide_resnet50_2

__all__ = [
    "AttentionGate",
    "ConvStage",
    "HealthyCalibration",
    "LRASPPHead",
    "LocalSelfAttention",
    "MemoryBank",
    "MobileNetV3",
    "MultiLevelFeatures",
    "NamedClasses",
    "RegionFilter",
    "RegionSpatialCombination",
    "ResNet2d",
    "SpatialSelfAttention",
    "TwoSkipDecoder",
    "fuse_batch_norm",
    "imagenet_statistics",
    "johnson_lindenstrauss_dim",
    "k_center_greedy",
    "load_mobilenet_weights",
    "load_resnet_weights",
    "load_trunk_weights",
    "nearest_neighbors",
    "residual",
    "smoothed",
    "sparse_random_projection",
    "wide_resnet50_2",
]
