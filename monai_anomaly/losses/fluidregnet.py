"""The losses of FluidRegNet (Andresen et al. 2024) and of its healthy-to-pathological form."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.losses import DiceLoss
from monai.networks.blocks import Warp
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.losses.displacement import ROW_SPACING, displacement_gradient, jacobian_determinant

PRESETS = {  # correlation, Dice, diffusion, folding; sparsity and positivity of the appearance offset
    "longitudinal": (1.0, 10.0, 1.0, 1000.0, 1e-4 * 0.3, 1e-4 * 64),
    "anomaly": (1.0, 3000.0, 0.3, 1000.0, 1.6e-5, 5e-3),
}


class SquaredCorrelationLoss(nn.Module):
    """1 - (sum f m)^2 / (sum f^2 sum m^2), no means taken off; the mean of the batch. In [0, 1].

    Raises ValueError for images that are nothing but border.

    Args:
        border: columns left out on either side (16).
        eps: added to the denominator.

    Shape:
        two images (B, C, H, W), output ().
    """

    def __init__(self, border: int = 16, eps: float = 1e-5) -> None:
        super().__init__()
        check_range("border", border, 0)
        self.border, self.eps = border, eps

    def forward(self, warped: Tensor, fixed: Tensor) -> Tensor:
        """Return the loss."""
        check_range("width of the images", warped.shape[3], 2 * self.border + 1)
        inner = slice(self.border, warped.shape[3] - self.border)
        a, b = (image[..., inner].flatten(1) for image in (warped, fixed))
        return (1 - (a * b).sum(1).square() / (a.square().sum(1) * b.square().sum(1) + self.eps)).mean()


class AppearanceLoss(nn.Module):
    """s sum |a| + p sum ReLU(a)^2, the mean of the batch: few offsets, and dark ones.

    Args:
        sparsity: s (0.3; healthy to pathological 1.6e-5).
        positivity: p (8^2; healthy to pathological 5e-3).

    Shape:
        a (B, 1, H, W), output ().
    """

    def __init__(self, sparsity: float = 0.3, positivity: float = 64.0) -> None:
        super().__init__()
        check_range("sparsity", sparsity, 0)
        check_range("positivity", positivity, 0)
        self.sparsity, self.positivity = sparsity, positivity

    def forward(self, offset: Tensor) -> Tensor:
        """Return the loss."""
        flat = offset.flatten(1)
        return (self.sparsity * flat.abs().sum(1) + self.positivity * F.relu(flat).square().sum(1)).mean()


class MaskedDiffusionLoss(nn.Module):
    """Mean of |D grad u|^2 where the mask is above 0: no smoothness is asked for around fluid.

    Args:
        row_spacing: see `displacement_gradient`.

    Shape:
        u (B, 2, H, W), mask (B, 1, H, W), output (); 0 for an empty mask.
    """

    def __init__(self, row_spacing: float = ROW_SPACING) -> None:
        super().__init__()
        self.row_spacing = row_spacing

    def forward(self, displacement: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss, with no mask everywhere."""
        steepness = displacement_gradient(displacement, self.row_spacing).square().sum((1, 2))
        if mask is None:
            return steepness.mean()
        inside = (mask[:, 0, 1:-1, 1:-1] > 0).to(steepness.dtype)
        return (steepness * inside).sum() / inside.sum().clamp(min=1)


def folding_loss(displacement: Tensor, row_spacing: float = ROW_SPACING) -> Tensor:
    """Return the mean of ReLU(-J)^2, of every sample's own field."""
    return F.relu(-jacobian_determinant(displacement, row_spacing=row_spacing)).square().mean()


def rough_fluid_mask(images: Tensor, retina: Tensor, quantile: float = 0.7, size: int = 11) -> Tensor:
    """Return where fluid may be, (B, 1, H, W) bool: dark pixels of the retina, dilated.

    Args:
        images: (B, 1, H, W).
        retina: its mask, (B, 1, H, W).
        quantile: of the whole B-scan, below which a pixel is dark.
        size: of the disc, odd.
    """
    limit = images.flatten(1).quantile(quantile, dim=1)[:, None, None, None]
    dark = ((images <= limit) & (retina > 0)).to(images.dtype)
    axis = torch.arange(size, device=images.device) - size // 2
    disc = (axis[:, None] ** 2 + axis**2 <= (size // 2) ** 2).to(images.dtype)[None, None]
    return F.conv2d(dark, disc, padding=size // 2) > 0.5


class FluidRegNetLoss(nn.Module):
    """All terms of a registration, with the weights of a preset.

    The retina's masks are warped bilinearly; the authors' code warps them by nearest neighbor, through which no
    gradient flows.

    Args:
        preset: "anomaly", healthy to pathological, or "longitudinal"; see `PRESETS`.
        with_appearance: False while the displacement alone is trained (the first 1,000 epochs; longitudinal 200).
        row_spacing: see `displacement_gradient`.
        dice_weight: of the retinas' Dice loss; None for the preset's. 3,000 leaves little for the appearance: with it,
            trainings of minutes do not learn to darken.

    Raises:
        ValueError: an unknown preset, or a weight below 0.
    """

    def __init__(
        self,
        preset: str = "anomaly",
        with_appearance: bool = True,
        row_spacing: float = ROW_SPACING,
        dice_weight: float | None = None,
    ) -> None:
        super().__init__()
        self.with_appearance = with_appearance
        self.in_both = preset == "longitudinal"  # healthy images have no fluid
        *self.weights, sparsity, positivity = PRESETS[check_option("preset", preset, list(PRESETS))]
        if dice_weight is not None:
            check_range("dice_weight", dice_weight, 0)
            self.weights[1] = dice_weight
        self.correlation = SquaredCorrelationLoss()
        self.dice = DiceLoss(smooth_nr=1e-5, smooth_dr=1e-5)
        self.diffusion = MaskedDiffusionLoss(row_spacing)
        self.appearance = AppearanceLoss(sparsity, positivity)
        self.warp = Warp("bilinear", "zeros")
        self.row_spacing = row_spacing

    def forward(self, fields: tuple[Tensor, Tensor], pair: Mapping[str, Tensor]) -> Tensor:
        """Return the loss.

        Args:
            fields: u and a.
            pair: "moving" and "fixed", (B, 1, H, W), and their retinas' masks "moving_retina" and "fixed_retina".
        """
        displacement, offset = fields
        fixed, retina = pair["fixed"], pair["fixed_retina"].float()
        source = pair["moving"] + offset if self.with_appearance else pair["moving"]
        fluid = rough_fluid_mask(fixed, retina)
        if self.in_both:
            fluid = fluid | rough_fluid_mask(pair["moving"], pair["moving_retina"].float())
        correlation, dice, diffusion, folding = self.weights
        loss = (
            correlation * self.correlation(self.warp(source, displacement), fixed)
            + dice * self.dice(self.warp(pair["moving_retina"].float(), displacement), retina)
            + diffusion * self.diffusion(displacement, ~fluid)
            + folding * folding_loss(displacement, self.row_spacing)
        )
        return loss + self.appearance(offset) if self.with_appearance else loss
