"""FluidRegNet: healthy B-scans registered to one with fluid; where they have to grow or darken, there is some.

Andresen et al. 2024, "FluidRegNet: Longitudinal registration of retinal OCT images with new pathological fluids", and
the anomaly maps of the authors' code.
"""

from __future__ import annotations

import torch
from monai.networks.blocks import Warp
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_divisible, check_image_batch, check_option, check_range
from monai_anomaly.losses.displacement import JACOBIANS, ROW_SPACING, jacobian_determinant
from monai_anomaly.networks.blocks.healthy_calibration import HealthyCalibration
from monai_anomaly.networks.blocks.resizable_buffers import ResizableBuffers

DARKENING, GROWTH = -0.13, 2.0  # thresholds of the authors' code

MAPS = ("vote", "weighted_vote", "soft")


def _conv(in_channels: int, between: int, out_channels: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions that repeat the border, each with batch normalization and a leaky ReLU."""
    layers: list[nn.Module] = []
    for a, b in ((in_channels, between), (between, out_channels)):
        conv = nn.Conv2d(a, b, 3, padding=1, bias=False, padding_mode="replicate")
        layers += [conv, nn.BatchNorm2d(b), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


class FluidRegNet(ResizableBuffers):
    """A registration network with a displacement and an appearance offset, and the healthy B-scans it registers.

    672,259 parameters by default. The map of an image is the share of healthy references that have to darken by 0.13
    or to double in area there on their way into it. The authors multiply it by the retina's mask: see `RetinaMask`.

    Args:
        channels: n, of the stems.
        anomaly_map: "vote", the share; "weighted_vote", weighted by how well each reference fits; "soft", how much
            rather than whether: clip(max(-offset / 0.26, (J - 1) / 2), 0, 1).
        jacobian: see `jacobian_determinant`.
        row_spacing: see `displacement_gradient`.

    Shape:
        input (B, 1, H, W) in [0, 1], H and W multiples of 16; output (B, 1, H, W) in [0, 1].

    Raises:
        ValueError: unknown options, or images of another shape than the references.
        RuntimeError: used as a detector before `set_references`.
    """

    def __init__(
        self,
        channels: int = 8,
        anomaly_map: str = "vote",
        jacobian: str = "published",
        row_spacing: float = ROW_SPACING,
    ) -> None:
        super().__init__()
        check_range("row_spacing", row_spacing, 0, low_open=True)
        self.map_kind = check_option("anomaly_map", anomaly_map, MAPS)
        self.jacobian = check_option("jacobian", jacobian, JACOBIANS)
        self.row_spacing = row_spacing
        n = channels
        self.pair_stem, self.difference_stem = _conv(2, n, n), _conv(1, n, n)
        self.down = nn.ModuleList(_conv(a * n, b * n, b * n) for a, b in ((2, 3), (3, 4), (4, 8), (8, 16)))
        self.up = nn.ModuleList(
            _conv(a * n, b * n, c * n) for a, b, c in ((24, 12, 8), (12, 8, 6), (9, 6, 4), (6, 4, 2))
        )
        self.displacement_head, self.appearance_head = (
            nn.Sequential(nn.Conv2d(2 * n, n, 1), nn.LeakyReLU(0.01), nn.Conv2d(n, out, 1)) for out in (2, 1)
        )
        self.warp = Warp("bilinear", "zeros")
        self.calibration = HealthyCalibration()
        self.register_buffer("references", torch.empty(0))
        self.references: Tensor

    def set_references(self, images: Tensor) -> None:
        """Store healthy B-scans, (K, 1, H, W) in [0, 1], to register to what is asked about.

        Raises:
            ValueError: none, or of another shape.
        """
        check_image_batch("FluidRegNet", images, 1)
        check_range("number of healthy references", len(images), 1)
        check_divisible(images, 16)
        self.references = convert_to_tensor(images).detach().float().to(self.references.device)

    def register_pair(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Return u, in pixels, (B, 2, H, W), and the appearance offset a, (B, 1, H, W): (moving + a)(x + u) ~ fixed."""
        check_divisible(moving, 16)
        pair = self.pair_stem(torch.cat((moving, fixed), 1))
        features = torch.cat((pair, self.difference_stem(moving - fixed)), 1)
        skips = []
        for stage in self.down:
            skips.append(features)
            features = stage(F.max_pool2d(features, 2))
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            larger = F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
            features = stage(torch.cat((larger, skip), 1))
        return self.displacement_head(features).float(), self.appearance_head(features).float()

    def evidence(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each healthy image has to change, (B, 1, H, W) in [0, 1], and how badly it fits then, (B,)."""
        displacement, offset = self.register_pair(moving, fixed)
        darker = self.warp(offset, displacement)
        growth = F.pad(jacobian_determinant(displacement, self.jacobian, self.row_spacing), (1, 1, 1, 1), value=1.0)
        error = (self.warp(moving + offset, displacement) - fixed).square().flatten(1).mean(1)
        if self.map_kind == "soft":
            return torch.maximum(darker / (2 * DARKENING), (growth - 1) / 2).clamp(0, 1), error
        return ((darker < DARKENING) | (growth > GROWTH)).float(), error

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map."""
        check_image_batch("FluidRegNet", images, 1)
        if not self.references.numel():
            msg = "FluidRegNet has no healthy references; train it first, or load its weights."
            raise RuntimeError(msg)
        if images.shape[2:] != self.references.shape[2:]:
            came, own = (" x ".join(map(str, size)) for size in (images.shape[2:], self.references.shape[2:]))
            msg = f"The healthy references are {own}, the images {came}; resize or pad them to {own}."
            raise ValueError(msg)
        fixed = convert_to_tensor(images).float()
        maps = [self._over_references(image) for image in fixed]
        return convert_to_dst_type(torch.stack(maps), images, dtype=torch.float32)[0]

    def _over_references(self, fixed: Tensor) -> Tensor:
        """Return the map of one image (1, H, W); references go in one by one, so memory does not grow with them."""
        total, weights = torch.zeros_like(fixed), torch.zeros((), device=fixed.device)
        for reference in self.references:
            found, error = self.evidence(reference[None], fixed[None])
            weight = 1 / error.clamp(min=1e-12)[0] if self.map_kind == "weighted_vote" else torch.ones_like(error[0])
            total, weights = total + weight * found[0], weights + weight
        return total / weights
