"""Losses that MONAI does not have."""

from .ascnet import CutDiscriminatorLoss, CutReconstructionLoss, DisjointnessLoss, FenceLoss

__all__ = ["CutDiscriminatorLoss", "CutReconstructionLoss", "DisjointnessLoss", "FenceLoss"]
