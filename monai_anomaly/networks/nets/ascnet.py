"""ASC-Net: an image is cut in two, and put together again from the cuts in few gray values.

Dey, Sun, Xu and Hong 2022, "ASC-Net: Unsupervised Medical Anomaly Segmentation Using an Adversarial-based Selective
Cutting Network", section 3 and figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn

from monai_anomaly.checks import check_divisible, check_image_batch, check_range
from monai_anomaly.networks.blocks.conv_stage import ConvStage
from monai_anomaly.networks.blocks.healthy_calibration import HealthyCalibration

CHANNELS = (32, 64, 128, 256, 512)
"""Feature maps of the four blocks and the transition layer, section 3.2."""


class CutEncoder(nn.Module):
    """Blocks of two convolutions, each but the last followed by 2 x 2 max pooling and dropout.

    Args:
        in_channels: of the images.
        channels: of the blocks, the transition layer's last (paper: 32, 64, 128, 256, 512).
        dropout: after each pooling, in [0, 1) (paper: 0.3).

    Shape:
        input (B, in_channels, H, W); the outputs of the blocks, (B, channels[i], H / 2^i, W / 2^i).
    """

    def __init__(self, in_channels: int = 1, channels: Sequence[int] = CHANNELS, dropout: float = 0.3) -> None:
        super().__init__()
        check_range("dropout", dropout, 0, 0.99)
        check_range("number of channels", len(channels), 2)
        self.stages = nn.ModuleList(ConvStage(a, b) for a, b in pairwise((in_channels, *channels)))
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(dropout))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the blocks' outputs, the finest first."""
        outputs = [self.stages[0](images)]
        for stage in self.stages[1:]:
            outputs.append(stage(self.down(outputs[-1])))
        return outputs


class CutDecoder(nn.Module):
    """Mirror of the encoder: transposed convolution, skip connection, dropout, two convolutions; a sigmoid at the end.

    Args:
        channels: of the encoder.
        dropout: on each concatenation, in [0, 1).
        top_dropout: whether on the finest one as well.

    Shape:
        the encoder's outputs in, (B, 1, H, W) in (0, 1) out.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, dropout: float = 0.3, top_dropout: bool = True) -> None:
        super().__init__()
        steps = list(pairwise(reversed(channels)))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(deep, fine, 2, stride=2) for deep, fine in steps)
        self.stages = nn.ModuleList(ConvStage(2 * fine, fine) for _, fine in steps)
        rates = [dropout] * (len(steps) - 1) + [dropout if top_dropout else 0.0]
        self.drops = nn.ModuleList(nn.Dropout(rate) for rate in rates)
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the cut."""
        *skips, features = outputs
        for up, drop, stage, skip in zip(self.ups, self.drops, self.stages, reversed(skips), strict=True):
            features = stage(drop(torch.cat((up(features), skip), 1)))
        return torch.sigmoid(self.head(features))


class ASCNet(nn.Module):
    """Main module M: one encoder, a fence cut I_fc that is to look like the reference, a wild cut I_wc of the rest.

    I_ro = sigmoid(1 x 1 convolution of [I_fc, I_wc]) is the reduced reconstruction, whose histogram has few separate
    peaks; the anomaly map is I_ro, or 1 - I_ro for lesions darker than their surroundings. An image is segmented at
    ``threshold``, the value of the outermost peak on the side of the lesions, which training stores.

    Args:
        in_channels: of the images.
        channels: see `CutEncoder`.
        dropout: see `CutEncoder`.
        fence_top_dropout: dropout at the finest level of the fence decoder too; the published code leaves it out.
        dark_lesions: lesions are darker than healthy tissue (liver CT).

    Shape:
        input (B, in_channels, H, W), H and W multiples of 2^(number of channels - 1), 16 in the paper;
        output (B, 1, H, W) in (0, 1).

    Raises:
        ValueError: images of another shape.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = CHANNELS,
        dropout: float = 0.3,
        fence_top_dropout: bool = False,
        dark_lesions: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.factor = 2 ** (len(channels) - 1)
        self.dark_lesions = dark_lesions
        self.encoder = CutEncoder(in_channels, channels, dropout)
        self.fence_decoder = CutDecoder(channels, dropout, fence_top_dropout)
        self.wild_decoder = CutDecoder(channels, dropout)
        self.reconstructor = nn.Conv2d(2, 1, 1)
        self.calibration = HealthyCalibration()
        self.register_buffer("_threshold", torch.tensor(float("nan")))
        self._threshold: Tensor
        self.register_buffer("_trained_for_dark", torch.tensor(dark_lesions))
        self.register_load_state_dict_post_hook(_check_lesions)  # type: ignore[no-untyped-call]

    @property
    def threshold(self) -> float:
        """Of the anomaly map, from where on a pixel belongs to a lesion; NaN before training."""
        return float(self._threshold)

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold.fill_(value)

    def cuts(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return I_fc, I_wc and I_ro, each (B, 1, H, W) in (0, 1)."""
        check_image_batch("ASCNet", images, self.in_channels)
        check_divisible(images, self.factor)
        outputs = self.encoder(convert_to_tensor(images).float())
        fence, wild = self.fence_decoder(outputs), self.wild_decoder(outputs)
        return fence, wild, torch.sigmoid(self.reconstructor(torch.cat((fence, wild), 1)))

    def map_of(self, reconstruction: Tensor) -> Tensor:
        """Return the anomaly map of I_ro."""
        return 1 - reconstruction if self.dark_lesions else reconstruction

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map."""
        return convert_to_dst_type(self.map_of(self.cuts(images)[2]), images, dtype=torch.float32)[0]


class ASCDiscriminator(nn.Module):
    """Discriminator D: the encoder's architecture with its own weights, and one dense unit with tanh.

    Args:
        in_channels: of the images, 1 for cuts.
        image_size: height and width, which the dense layer is made for.
        channels: see `CutEncoder`.
        dropout: see `CutEncoder`.

    Shape:
        input (B, in_channels, *image_size), output (B,) in (-1, 1), near 1 for the reference distribution.

    Raises:
        ValueError: images of another shape, or a size the pooling does not divide.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: Sequence[int] = (160, 160),
        channels: Sequence[int] = CHANNELS,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = tuple(image_size)
        factor = 2 ** (len(channels) - 1)
        check_divisible(torch.empty(1, 1, *image_size, device="meta"), factor)
        self.encoder = CutEncoder(in_channels, channels, dropout)
        height, width = (size // factor for size in image_size)
        self.head = nn.Linear(channels[-1] * height * width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the judgments."""
        check_image_batch("ASCDiscriminator", images, self.in_channels)
        if tuple(images.shape[2:]) != self.image_size:
            came, expected = (" x ".join(map(str, size)) for size in (images.shape[2:], self.image_size))
            msg = f"ASCDiscriminator is made for {expected} images, got {came}; set image_size to what the data has."
            raise ValueError(msg)
        return torch.tanh(self.head(self.encoder(images)[-1].flatten(1)))[:, 0]

    def reset_parameters(self) -> None:
        """Draw all weights anew, as the published code does before each of D's steps."""
        for module in self.modules():
            if module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()


def _check_lesions(network: ASCNet, incompatible_keys: object) -> None:
    """Check that weights are used for the lesions they were trained for: the threshold is of their map."""
    del incompatible_keys
    trained, wanted = bool(network.get_buffer("_trained_for_dark")), network.dark_lesions
    if trained != wanted:
        msg = (
            f"The weights were trained with dark_lesions={trained}, the network has {wanted}; set it as in the "
            f"training (--dark_lesions {trained}), with the same window and organ."
        )
        raise ValueError(msg)
