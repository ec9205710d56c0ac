"""f-AnoGAN: what a generator of healthy patches cannot show.

Schlegl et al. 2019, "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks", with the
residual networks of the authors' code.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from monai.inferers import SlidingWindowInferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_image_batch, check_option, check_range
from monai_anomaly.networks.blocks.healthy_calibration import HealthyCalibration
from monai_anomaly.networks.blocks.residual_map import SIDES, residual, smoothed

PATCH_SIZE = 64
_WIDTHS = (1, 2, 4, 8, 8)  # of the resolutions 64, 32, 16, 8, 4, times the number of channels
_LOWEST = 4


def _norm(kind: str, channels: int) -> nn.Module:
    """Return batch normalization, or over a sample's channels and pixels with a scale and a shift per channel."""
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(1, channels)


class ResampleBlock(nn.Module):
    """Two pre-activated convolutions beside a 1 x 1 one, at half or twice the resolution.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        resample: "down": 2 x 2 mean at the end; "up": nearest neighbor at the start.
        norm: "batch", or "layer".

    Shape:
        input (B, in_channels, H, W), output (B, out_channels, H / 2, W / 2) or twice as large.
    """

    def __init__(self, in_channels: int, out_channels: int, resample: str, norm: str) -> None:
        super().__init__()
        self.resample = check_option("resample", resample, ("down", "up"))
        between = in_channels if resample == "down" else out_channels
        self.norm1, self.norm2 = _norm(norm, in_channels), _norm(norm, between)
        self.conv1 = nn.Conv2d(in_channels, between, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(between, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        for conv, gain in ((self.conv1, 4), (self.conv2, 4), (self.shortcut, 2)):
            _initialize(conv, gain)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features at the other resolution."""
        if self.resample == "up":
            out = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2.0, mode="nearest"))
            out = self.conv2(F.relu(self.norm2(out)))
            return torch.as_tensor(out + self.shortcut(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        out = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.as_tensor(F.avg_pool2d(out, 2) + self.shortcut(F.avg_pool2d(x, 2)))


def _initialize(conv: nn.Conv2d, gain: float) -> None:
    """Draw weights uniformly, standard deviation sqrt(gain / (fan_in + fan_out)); biases are 0."""
    fans = conv.weight[0].numel() + conv.weight[:, 0].numel()
    bound = (3 * gain / fans) ** 0.5
    nn.init.uniform_(conv.weight, -bound, bound)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class _Analysis(nn.Module):
    """The trunk that critic and encoder share: a convolution and four halvings, flattened."""

    def __init__(self, in_channels: int, channels: int, norm: str) -> None:
        super().__init__()
        widths = [channels * times for times in _WIDTHS]
        self.first = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        _initialize(self.first, 2)
        self.blocks = nn.Sequential(*(ResampleBlock(a, b, "down", norm) for a, b in pairwise(widths)))
        self.out_features = widths[-1] * _LOWEST**2

    def forward(self, patches: Tensor) -> Tensor:
        """Return (B, out_features)."""
        return torch.as_tensor(self.blocks(self.first(patches)).flatten(1))


class FAnoGANGenerator(nn.Module):
    """G: a latent vector becomes a patch. 8,539,329 parameters by default.

    Args:
        out_channels: of the patches.
        latent_dim: of z, standard normal.
        channels: of the finest level.

    Shape:
        input (B, latent_dim), output (B, out_channels, 64, 64) in [-1, 1].
    """

    def __init__(self, out_channels: int = 1, latent_dim: int = 128, channels: int = 64) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        widths = [channels * times for times in reversed(_WIDTHS)]
        self.linear = nn.Linear(latent_dim, widths[0] * _LOWEST**2)
        self.blocks = nn.Sequential(*(ResampleBlock(a, b, "up", "batch") for a, b in pairwise(widths)))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.last = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        _initialize(self.last, 2)

    def forward(self, latents: Tensor) -> Tensor:
        """Return patches."""
        features = self.blocks(self.linear(latents).unflatten(1, (-1, _LOWEST, _LOWEST)))
        return torch.tanh(self.last(F.relu(self.norm(features))))


class FAnoGANCritic(nn.Module):
    """D: how real a patch is, for each by itself. 7,490,689 parameters by default.

    Args:
        in_channels: of the patches.
        channels: of the finest level.

    Shape:
        input (B, in_channels, 64, 64), output (B,).
    """

    def __init__(self, in_channels: int = 1, channels: int = 64) -> None:
        super().__init__()
        self.trunk = _Analysis(in_channels, channels, "layer")
        self.linear = nn.Linear(self.trunk.out_features, 1)

    def features(self, patches: Tensor) -> Tensor:
        """Return f(x), what the last layer sees, (B, 8192) by default."""
        return torch.as_tensor(self.trunk(patches))

    def forward(self, patches: Tensor) -> Tensor:
        """Return judgments."""
        return torch.as_tensor(self.linear(self.features(patches))[:, 0])


class FAnoGANEncoder(nn.Module):
    """E: a patch becomes a latent vector. 8,531,200 parameters by default.

    Args:
        in_channels: of the patches.
        latent_dim: of z.
        channels: of the finest level.

    Shape:
        input (B, in_channels, 64, 64), output (B, latent_dim) in (-1, 1).
    """

    def __init__(self, in_channels: int = 1, latent_dim: int = 128, channels: int = 64) -> None:
        super().__init__()
        self.trunk = _Analysis(in_channels, channels, "batch")
        self.linear = nn.Linear(self.trunk.out_features, latent_dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Return latent vectors."""
        return torch.tanh(self.linear(self.trunk(patches)))


class FAnoGAN(nn.Module):
    """The detector: |x - G(E(x))| in windows of 64 x 64, blended.

    G and D are trained first, in training mode as they are made, by MONAI's GanTrainer, whose ``d_train_steps`` are all
    on one batch. Then E is, by a trainer that calls ``train``: from there on G and D stay in evaluation mode.

    Args:
        in_channels: of the images.
        latent_dim: of z.
        channels: of the networks' finest level.
        overlap: of neighboring windows, in [0, 1); 0.5 puts them 32 pixels apart.
        blend: "gaussian" weights windows by their middle, "constant" does not.
        kappa: weight of the features in the score (paper: 1).
        side: of the difference that counts, see `residual` ("both": |x - G(E(x))|).
        sigma: of a Gaussian over the map, in pixels; 0 for none.

    Shape:
        input (B, in_channels, H, W) in [0, 1], any H and W; output (B, 1, H, W) in [0, 2].

    Raises:
        ValueError: arguments out of range, or images of another shape.
    """

    def __init__(
        self,
        in_channels: int = 1,
        latent_dim: int = 128,
        channels: int = 64,
        overlap: float = 0.5,
        blend: str = "gaussian",
        kappa: float = 1.0,
        side: str = "both",
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        check_range("sigma", sigma, 0, 100)
        self.side, self.sigma = check_option("side", side, SIDES), sigma
        check_range("overlap", overlap, 0, 0.99)
        check_range("kappa", kappa, 0)
        self.in_channels = in_channels
        self.kappa = kappa
        self.generator = FAnoGANGenerator(in_channels, latent_dim, channels)
        self.critic = FAnoGANCritic(in_channels, channels)
        self.encoder = FAnoGANEncoder(in_channels, latent_dim, channels)
        self.calibration = HealthyCalibration()
        self.windows = SlidingWindowInferer(
            (PATCH_SIZE, PATCH_SIZE),
            sw_batch_size=64,
            overlap=overlap,
            mode=check_option("blend", blend, ("gaussian", "constant")),
            padding_mode="reflect",
            cache_roi_weight_map=True,
        )

    def train(self, mode: bool = True) -> FAnoGAN:
        """Set the mode of the encoder; generator and critic stay in evaluation mode."""
        super().train(mode)
        self.generator.eval()
        self.critic.eval()
        return self

    def encoding(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return G(E(x)), f(G(E(x))) and f(x) of patches in [-1, 1], what `EncoderLoss` compares."""
        again = self.reconstruct(patches)
        with torch.no_grad():
            features = self.critic.features(patches)
        return again, self.critic.features(again), features

    def reconstruct(self, patches: Tensor) -> Tensor:
        """Return G(E(x)) of patches in [-1, 1], (B, in_channels, 64, 64)."""
        return torch.as_tensor(self.generator(self.encoder(patches)))

    def residual(self, patches: Tensor) -> Tensor:
        """Return |x - G(E(x))|, or one side of it, of patches in [-1, 1], the mean of the channels, (B, 1, 64, 64)."""
        return residual(patches, self.reconstruct(patches), self.side).mean(1, keepdim=True)

    def score(self, patches: Tensor) -> Tensor:
        """Return A(x) = mean (x - G(E(x)))^2 + kappa mean (f(x) - f(G(E(x))))^2 of patches in [-1, 1], (B,)."""
        again = self.reconstruct(patches)
        image = (patches - again).square().flatten(1).mean(1)
        return image + self.kappa * (self.critic.features(patches) - self.critic.features(again)).square().mean(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map."""
        check_image_batch("FAnoGAN", images, self.in_channels)
        scaled = 2 * convert_to_tensor(images).float() - 1
        missing = [max(0, PATCH_SIZE - n) for n in scaled.shape[2:]]
        padded = F.pad(scaled, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else scaled
        found = self.windows(padded, self.residual)[..., : images.shape[2], : images.shape[3]]
        return convert_to_dst_type(smoothed(found, self.sigma), images, dtype=torch.float32)[0]
