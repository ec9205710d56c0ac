"""How far an image is from its healthy counterpart, pixel by pixel: to both sides or one, speckle averaged or not."""

from __future__ import annotations

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor

from monai_anomaly.checks import check_option

SIDES = ("both", "darker", "brighter")


def residual(images: Tensor, healthy: Tensor, side: str = "both") -> Tensor:
    """Return |x - x_hat|, or its part where x is darker, max(x_hat - x, 0), or brighter, max(x - x_hat, 0).

    Fluid is darker than the tissue a healthy counterpart has in its place; the layers that it lifts are brighter than
    what was there, and count with the fluid where both sides do.

    Args:
        images: x, (B, C, ...).
        healthy: x_hat, of the same shape.
        side: "both", "darker" or "brighter".

    Raises:
        ValueError: another side.
    """
    check_option("side", side, SIDES)
    difference = images - healthy
    return difference.abs() if side == "both" else (-difference if side == "darker" else difference).clamp(min=0)


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Return maps (B, C, H, W) averaged with Gaussian weights of this standard deviation in pixels; 0 leaves them."""
    if not sigma:
        return maps
    kernel = gaussian_1d(torch.as_tensor(float(sigma), device=maps.device), truncated=4.0, normalize=True).to(maps)
    return torch.as_tensor(separable_filtering(maps, [kernel, kernel], mode="replicate"))
