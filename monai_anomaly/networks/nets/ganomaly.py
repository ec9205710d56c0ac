"""GANomaly: an image is given back by way of a latent vector, and its copy's latent vector compared.

Akcay et al. 2018, "GANomaly: Semi-supervised anomaly detection via adversarial training", with the networks of the
authors' code and the sizes of AGM (Yang et al. 2024).
"""

from __future__ import annotations

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn

from monai_anomaly.checks import check_image_batch, check_option, check_range
from monai_anomaly.networks.blocks.healthy_calibration import HealthyCalibration
from monai_anomaly.networks.blocks.residual_map import SIDES, residual, smoothed

_LOWEST = 4


def _widths(image_size: int, channels: int) -> list[int]:
    """Return the channels of the resolutions from half the image's down to 4 x 4.

    Raises:
        ValueError: no power of two, or smaller than 16.
    """
    levels = image_size // _LOWEST
    if image_size < 16 or levels & (levels - 1) or image_size % _LOWEST:
        near = 2 ** max(4, image_size.bit_length())
        msg = f"image_size must be a power of two from 16 on, got {image_size}; resize the images to {near} x {near}."
        raise ValueError(msg)
    return [channels * 2**level for level in range(levels.bit_length() - 1)]


def _analysis(image_size: int, in_channels: int, channels: int) -> list[nn.Module]:
    """Return the layers from the image to 4 x 4: halving convolutions, all but the first normalized."""
    layers: list[nn.Module] = []
    for level, width in enumerate(_widths(image_size, channels)):
        layers.append(nn.Conv2d(in_channels, width, 4, 2, 1, bias=False))
        if level:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        in_channels = width
    return layers


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.02)
            nn.init.zeros_(module.bias)


class GANomalyGenerator(nn.Module):
    """G: encoder, decoder and a second encoder. 146,010,304 parameters by default, AGM's size.

    The authors' own sizes: 3,206,528 for (32, 100, 3, 64), 10,729,856 for (64, 100, 3, 64).

    Args:
        image_size: side of the square images, a power of two from 16 on.
        latent_dim: of z.
        in_channels: of the images.
        channels: of the finest level.

    Shape:
        input (B, in_channels, image_size, image_size) in [-1, 1]; output the same, the healthy counterpart.

    Raises:
        ValueError: image_size is no power of two.
    """

    def __init__(self, image_size: int = 512, latent_dim: int = 120, in_channels: int = 3, channels: int = 32) -> None:
        super().__init__()
        self.image_size, self.in_channels = image_size, in_channels
        widths = _widths(image_size, channels)

        def encoder() -> nn.Sequential:
            last = nn.Conv2d(widths[-1], latent_dim, _LOWEST, bias=False)
            return nn.Sequential(*_analysis(image_size, in_channels, channels), last)

        self.encoder = encoder()
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, widths[-1], _LOWEST, bias=False)]
        for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
            layers += [
                nn.BatchNorm2d(wide),
                nn.ReLU(inplace=True),
                nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False),
            ]
        layers += [nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        self.decoder = nn.Sequential(
            *layers, nn.ConvTranspose2d(widths[0], in_channels, 4, 2, 1, bias=False), nn.Tanh()
        )
        self.second_encoder = encoder()
        _initialize(self)

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_hat, z and z_hat; latent vectors (B, latent_dim, 1, 1)."""
        latents = self.encoder(images)
        again = self.decoder(latents)
        return again, latents, self.second_encoder(again)

    def forward(self, images: Tensor) -> Tensor:
        """Return the healthy counterpart x_hat."""
        return torch.as_tensor(self.decoder(self.encoder(images)))


class GANomalyDiscriminator(nn.Module):
    """D: the same encoder with one output; all but the last convolution are the features.

    Args:
        image_size: see `GANomalyGenerator`.
        in_channels: of the images.
        channels: of the finest level.

    Shape:
        input (B, in_channels, image_size, image_size), output logits (B,).
    """

    def __init__(self, image_size: int = 512, in_channels: int = 3, channels: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*_analysis(image_size, in_channels, channels))
        self.head = nn.Conv2d(_widths(image_size, channels)[-1], 1, _LOWEST, bias=False)
        _initialize(self)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        _initialize(self)

    def features(self, images: Tensor) -> Tensor:
        """Return f(x), (B, C, 4, 4)."""
        return torch.as_tensor(self.trunk(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of being real."""
        return torch.as_tensor(self.head(self.features(images)).flatten())


class GANomaly(nn.Module):
    """The detector: how far an image is from its healthy counterpart.

    Args:
        image_size: see `GANomalyGenerator`.
        latent_dim: see `GANomalyGenerator`.
        in_channels: of the images.
        channels: see `GANomalyGenerator`.
        side: of the difference that counts, see `residual` ("both": |x - x_hat|).
        sigma: of a Gaussian over the map, in pixels; 0 for none.

    Shape:
        input (B, in_channels, image_size, image_size) in [0, 1]; output (B, 1, image_size, image_size) in [0, 1].

    Raises:
        ValueError: arguments out of range, or images of another shape.
    """

    def __init__(
        self,
        image_size: int = 512,
        latent_dim: int = 120,
        in_channels: int = 3,
        channels: int = 32,
        side: str = "both",
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        check_range("sigma", sigma, 0, 100)
        self.side, self.sigma = check_option("side", side, SIDES), sigma
        self.in_channels, self.image_size = in_channels, image_size
        self.generator = GANomalyGenerator(image_size, latent_dim, in_channels, channels)
        self.discriminator = GANomalyDiscriminator(image_size, in_channels, channels)
        self.calibration = HealthyCalibration()

    def healthy(self, images: Tensor) -> Tensor:
        """Return the healthy counterpart in [0, 1]."""
        self._check(images)
        return (self.generator(2 * convert_to_tensor(images).float() - 1) + 1) / 2

    def score(self, images: Tensor) -> Tensor:
        """Return A(x), the mean of (z - z_hat)^2, of images in [0, 1], (B,)."""
        self._check(images)
        _, latents, again = self.generator.reconstruct(2 * convert_to_tensor(images).float() - 1)
        return (latents - again).square().flatten(1).mean(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map, the residual as the mean of the channels."""
        found = residual(convert_to_tensor(images).float(), self.healthy(images), self.side).mean(1, keepdim=True)
        return convert_to_dst_type(smoothed(found, self.sigma), images, dtype=torch.float32)[0]

    def _check(self, images: Tensor) -> None:
        check_image_batch("GANomaly", images, self.in_channels)
        if tuple(images.shape[2:]) != (self.image_size, self.image_size):
            size = " x ".join(map(str, images.shape[2:]))
            msg = f"GANomaly is made for {self.image_size} x {self.image_size} images, got {size}; resize them."
            raise ValueError(msg)
