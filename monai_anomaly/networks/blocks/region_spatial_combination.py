"""Neighborhood context and image-wide context for feature maps (ReSC; Niu et al. 2023, section 3.2).

The paper's Eq. 4 multiplies matrices of unequal shapes; the readings are arguments here, and the bundle's
``docs/paper.md`` says why the defaults were chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_anomaly.checks import check_option, check_range

ATTENTIONS = ("cosine", "literal", "scaled", "diagonal", "none")

_CHANNEL_CHUNK = 16
_ROW_CHUNK = 512


class RegionFilter(nn.Module):
    """Average each channel over a disk whose weights fall linearly with the distance: R = psi_r(F), Eq. 3.

    w(d) = max(0, 1 - d / (r + 1)), normalized to sum 1 over the part of the disk inside the map, so that a constant
    map stays as it is up to its border. Computed by FFT: the cost does not grow with the radius.

    Args:
        radius: reach of the filter in feature-map pixels, at least 1 (paper: 12).

    Shape:
        input (B, C, H, W), output the same.

    Raises:
        ValueError: radius < 1.
    """

    def __init__(self, radius: int = 12) -> None:
        super().__init__()
        check_range("radius", radius, 1)
        self.radius = radius
        axis = torch.arange(-radius, radius + 1, dtype=torch.float32)
        weights = (1 - torch.hypot(axis[:, None], axis) / (radius + 1)).clamp(min=0)
        self.register_buffer("kernel", weights / weights.sum(), persistent=False)
        self.kernel: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Return the local means."""
        height, width = features.shape[-2:]
        size = [_fast_length(n + 2 * self.radius) for n in (height, width)]
        transfer = torch.fft.rfft2(self.kernel, s=size)

        def blur(x: Tensor) -> Tensor:
            full = torch.fft.irfft2(torch.fft.rfft2(x, s=size) * transfer, s=size)
            return full[..., self.radius : self.radius + height, self.radius : self.radius + width]

        coverage = blur(features.new_ones(height, width, dtype=torch.float32))
        out = torch.empty_like(features, memory_format=torch.contiguous_format)
        for image, result in zip(features, out, strict=True):
            for start in range(0, len(image), _CHANNEL_CHUNK):
                part = slice(start, start + _CHANNEL_CHUNK)
                result[part] = blur(image[part].float()) / coverage
        return out


class SpatialSelfAttention(nn.Module):
    """Replace each feature vector by a mean of all, weighted by similarity: P = softmax(G) F, G = F F^T, Eq. 4.

    Rows of G are made, used and dropped in chunks: extra memory is 2 MB per 1,000 pixels, never (HW) x (HW).

    Args:
        attention: the reading of Eq. 4. "cosine": G of L2-normalized features over a temperature; "literal": G as
            printed, whose softmax is the identity for real features; "scaled": G / sqrt(C); "diagonal": F times the
            diagonal of softmax(G), the nearest to the printed Hadamard product; "none": no spatial module, P = 0.
        temperature: of "cosine", > 0 (ours: 0.1).

    Shape:
        input (B, C, H, W), output the same.

    Raises:
        ValueError: unknown attention, or temperature <= 0.
    """

    def __init__(self, attention: str = "cosine", temperature: float = 0.1) -> None:
        super().__init__()
        check_range("temperature", temperature, 0, low_open=True)
        self.attention = check_option("attention", attention, ATTENTIONS)
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Return P."""
        return self.add_to(torch.zeros_like(features, memory_format=torch.contiguous_format), features)

    def add_to(self, out: Tensor, features: Tensor) -> Tensor:
        """Add P to ``out`` in place, which saves a copy, and return it."""
        if self.attention != "none":
            for result, image in zip(out, features, strict=True):
                self._add_image(result.view(len(result), -1), image.flatten(1))
        return out

    def _add_image(self, result: Tensor, image: Tensor) -> None:
        """Add P of one image (C, HW) to ``result`` (C, HW)."""
        num_channels, num_pixels = image.shape
        row_scale = torch.tensor(num_channels**-0.5 if self.attention == "scaled" else 1.0, device=image.device)
        column_scale = None
        if self.attention == "cosine":
            column_scale = image.square().sum(0).clamp_(min=1e-24).rsqrt_()  # 1 / ||F_j||, (HW,)
            row_scale = column_scale / self.temperature
        for start in range(0, num_pixels, _ROW_CHUNK):
            part = slice(start, min(start + _ROW_CHUNK, num_pixels))
            rows = image[:, part] * (row_scale[part] if row_scale.ndim else row_scale)
            similarity = rows.T @ image  # n rows of G, (n, HW)
            if column_scale is not None:
                similarity *= column_scale
            similarity -= similarity.amax(1, keepdim=True)
            weights = similarity.exp_()  # softmax in place, divided by its sum below
            total = weights.sum(1)
            if self.attention == "diagonal":
                result[:, part] += image[:, part] * (weights.diagonal(offset=start) / total)
            else:
                result[:, part] += (image @ weights.T) / total


class RegionSpatialCombination(nn.Module):
    """Add neighborhood context and image-wide context of each feature vector: C = P + R, Eq. 5.

    Args:
        radius: of the `RegionFilter`; 0 leaves the region module out (paper: 12).
        attention: of the `SpatialSelfAttention`; "none" leaves the spatial module out.
        temperature: of the attention.

    Shape:
        input (B, C, H, W), output the same. With both modules left out the features come back as they are.

    Raises:
        ValueError: radius < 0, unknown attention, or temperature <= 0.
    """

    def __init__(self, radius: int = 12, attention: str = "cosine", temperature: float = 0.1) -> None:
        super().__init__()
        check_range("radius", radius, 0)
        self.region = RegionFilter(radius) if radius else None
        self.spatial = SpatialSelfAttention(attention, temperature)

    def forward(self, features: Tensor) -> Tensor:
        """Return C."""
        if self.region is None:
            return features if self.spatial.attention == "none" else self.spatial(features)
        return self.spatial.add_to(self.region(features), features)


def _fast_length(length: int) -> int:
    """Return the next length whose only prime factors are 2, 3 and 5, which FFTs like."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
