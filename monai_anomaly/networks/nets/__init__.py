"""Detectors and segmenters, one file per method."""

from .resad import ReSAD

__all__ = ["ReSAD"]
