"""Derivatives of displacement fields."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_anomaly.checks import check_option

ROW_SPACING = 0.3194
"""Of a row over that of an A-scan, Spectralis (code of Andresen et al. 2024)."""

JACOBIANS = ("published", "inverse_determinant")


def displacement_gradient(displacement: Tensor, row_spacing: float = ROW_SPACING) -> Tensor:
    """Return D grad u by central differences inside the image, (B, 2, 2, H - 2, W - 2), component before direction.

    Args:
        displacement: u, in pixels, rows before columns, (B, 2, H, W).
        row_spacing: h_2; differences between rows are over it, those between columns over 1.
    """
    along_rows = (displacement[..., 2:, 1:-1] - displacement[..., :-2, 1:-1]) / (2 * row_spacing)
    along_columns = (displacement[..., 1:-1, 2:] - displacement[..., 1:-1, :-2]) / 2
    return torch.stack((along_rows, along_columns), 2)


def jacobian_determinant(
    displacement: Tensor, convention: str = "published", row_spacing: float = ROW_SPACING
) -> Tensor:
    """Return how much tissue grows on its way into the target, (B, 1, H - 2, W - 2), of each sample by itself.

    Args:
        displacement: u, in pixels, (B, 2, H, W), that pulls the moving image back.
        convention: "published": det(I - D grad u), D with the spacing; "inverse_determinant": 1 / det(I + grad u), of
            areas in pixels. Both are above 1 where tissue grows.
        row_spacing: see `displacement_gradient`; for "published" only.

    Raises:
        ValueError: an unknown convention.
    """
    published = check_option("convention", convention, JACOBIANS) == "published"
    gradient = displacement_gradient(displacement, row_spacing if published else 1.0)
    a, b, c, d = (-gradient if published else gradient).flatten(1, 2).unbind(1)
    determinant = ((1 + a) * (1 + d) - b * c)[:, None]
    return determinant if published else 1 / determinant.clamp(min=1e-3)
