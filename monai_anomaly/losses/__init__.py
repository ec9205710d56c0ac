"""Losses that MONAI does not have."""

from .amnet import GuidedSegmentationLoss
from .ascnet import CutDiscriminatorLoss, CutReconstructionLoss, DisjointnessLoss, FenceLoss
from .displacement import displacement_gradient, jacobian_determinant
from .fluidregnet import (
    AppearanceLoss,
    FluidRegNetLoss,
    MaskedDiffusionLoss,
    SquaredCorrelationLoss,
    folding_loss,
    rough_fluid_mask,
)
from .gan import (
    EncoderLoss,
    GANomalyLoss,
    WassersteinCriticLoss,
    WassersteinGeneratorLoss,
    discriminator_loss,
    gradient_penalty,
)

__all__ = [
    "AppearanceLoss",
    "CutDiscriminatorLoss",
    "CutReconstructionLoss",
    "DisjointnessLoss",
    "EncoderLoss",
    "FenceLoss",
    "FluidRegNetLoss",
    "GANomalyLoss",
    "GuidedSegmentationLoss",
    "MaskedDiffusionLoss",
    "SquaredCorrelationLoss",
    "WassersteinCriticLoss",
    "WassersteinGeneratorLoss",
    "discriminator_loss",
    "displacement_gradient",
    "folding_loss",
    "gradient_penalty",
    "jacobian_determinant",
    "rough_fluid_mask",
]
