"""Resize a batch of 2-D images or maps, without aliasing when they shrink."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F


def resize_images(images: Tensor, size: Sequence[int], *, nearest: bool = False) -> Tensor:
    """Return the images at another size: bilinear with antialiasing, or nearest neighbor for labels.

    Args:
        images: (B, C, H, W), float, or any type where ``nearest``.
        size: new height and width.
        nearest: keep the values as they are.

    Shape:
        output (B, C, size[0], size[1]).
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    plain = convert_to_tensor(images)
    if nearest:
        rows, columns = (
            ((torch.arange(new) + 0.5) * old / new).long().clamp(max=old - 1)
            for new, old in zip(size, plain.shape[-2:], strict=True)
        )
        return plain[..., rows[:, None], columns]
    return F.interpolate(plain, tuple(size), mode="bilinear", align_corners=False, antialias=True)
