"""Detectors and segmenters, one file per method."""

from .ascnet import ASCDiscriminator, ASCNet
from .resad import ReSAD
from .resynthdetect import ReconstructionAutoencoder, ReSynthDetect

__all__ = ["ASCDiscriminator", "ASCNet", "ReSAD", "ReSynthDetect", "ReconstructionAutoencoder"]
