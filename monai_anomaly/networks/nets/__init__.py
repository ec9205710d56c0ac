"""Detectors and segmenters, one file per method."""

from .amnet import AttentionMobileNet, MobileNetV3Segmenter
from .ascnet import ASCDiscriminator, ASCNet
from .fanogan import FAnoGAN, FAnoGANCritic, FAnoGANEncoder, FAnoGANGenerator
from .fluidregnet import FluidRegNet
from .ganomaly import GANomaly, GANomalyDiscriminator, GANomalyGenerator
from .nsa import NSANet
from .resad import ReSAD
from .resynthdetect import ReconstructionAutoencoder, ReSynthDetect

__all__ = [
    "ASCDiscriminator",
    "ASCNet",
    "AttentionMobileNet",
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
