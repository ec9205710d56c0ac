"""Detectors and segmenters, one file per method."""

from .agm import AGMClassifier
from .amnet import AttentionMobileNet, MobileNetV3Segmenter
from .ascnet import ASCDiscriminator, ASCNet
from .deeplabv3plus import DeepLabV3Plus
from .fanogan import FAnoGAN, FAnoGANCritic, FAnoGANEncoder, FAnoGANGenerator
from .fluidregnet import FluidRegNet
from .ganomaly import GANomaly, GANomalyDiscriminator, GANomalyGenerator
from .nsa import NSANet
from .resad import ReSAD
from .resynthdetect import ReconstructionAutoencoder, ReSynthDetect

__all__ = [
    "AGMClassifier",
    "ASCDiscriminator",
    "ASCNet",
    "AttentionMobileNet",
    "DeepLabV3Plus",
    "FAnoGAN",
    "FAnoGANCritic",
    "FAnoGANEncoder",
    "FAnoGANGenerator",
    "FluidRegNet",
    "GANomaly",
    "GANomalyDiscriminator",
    "GANomalyGenerator",
    "MobileNetV3Segmenter",
    "NSANet",
    "ReSAD",
    "ReSynthDetect",
    "ReconstructionAutoencoder",
]
