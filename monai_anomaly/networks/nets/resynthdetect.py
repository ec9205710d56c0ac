"""ReSynthDetect: find synthetic lesions, helped by the features of a network that reconstructs healthy images.

Niu et al. 2023, "ReSynthDetect: A Fundus Anomaly Detection Network with Reconstruction and Synthetic Features",
section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_divisible, check_file, check_image_batch, check_option, check_range
from monai_anomaly.networks.blocks.conv_stage import ConvStage
from monai_anomaly.networks.blocks.healthy_calibration import HealthyCalibration

CHANNELS = (64, 128, 256, 512, 512)
"""Of the five levels; the paper does not say. (32, 64, 128, 256, 256) is the small form."""

GUIDANCES = ("features", "image", "none")


class FeatureEncoder(nn.Module):
    """Levels of two convolutions, 2 x 2 max pooling between them; each may take the features of another encoder in.

    Args:
        in_channels: of the images.
        channels: of the levels.
        guide_channels: of the features concatenated to each level's output, F_c^i = concat(F_r^i, F_l^i); none by
            default.

    Shape:
        input (B, in_channels, H, W); outputs (B, channels[i] + guide_channels[i], H / 2^i, W / 2^i).
    """

    def __init__(
        self, in_channels: int = 3, channels: Sequence[int] = CHANNELS, guide_channels: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        guides = guide_channels or [0] * len(channels)
        widths = [in_channels, *(a + b for a, b in zip(channels, guides, strict=True))]
        self.stages = nn.ModuleList(ConvStage(a, b, "NA") for a, b in zip(widths[:-1], channels, strict=True))
        self.out_channels = widths[1:]

    def forward(self, images: Tensor, guides: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the levels' outputs, the finest first."""
        outputs: list[Tensor] = []
        for level, stage in enumerate(self.stages):
            features = stage(F.max_pool2d(outputs[-1], 2) if outputs else images)
            outputs.append(features if guides is None else torch.cat((guides[level], features), 1))
        return outputs


class UpDecoder(nn.Module):
    """Levels of bilinear enlargement, a convolution, where there are skip connections their features, two convolutions.

    Args:
        channels: of the levels, the finest first.
        deepest_channels: of the input.
        skip_channels: of the features concatenated at each level but the deepest, None for no skip connections.
        out_channels: of the result.
    """

    def __init__(
        self,
        channels: Sequence[int],
        deepest_channels: int,
        skip_channels: Sequence[int] | None = None,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        outs = list(reversed(channels[:-1]))
        skips = list(reversed(skip_channels[:-1])) if skip_channels else [0] * len(outs)
        self.ups = nn.ModuleList(ConvStage(a, b, "NA", 1) for a, b in pairwise((deepest_channels, *outs)))
        self.stages = nn.ModuleList(ConvStage(o + s, o, "NA") for o, s in zip(outs, skips, strict=True))
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def forward(self, deepest: Tensor, skips: Sequence[Tensor] | None = None) -> Tensor:
        """Return the result at the finest level's resolution."""
        features = deepest
        for level, (up, stage) in enumerate(zip(self.ups, self.stages, strict=True)):
            features = up(F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False))
            if skips is not None:
                features = torch.cat((skips[-1 - level], features), 1)
            features = stage(features)
        return torch.as_tensor(self.head(features))


class ReconstructionAutoencoder(nn.Module):
    """E_r and D_r: an autoencoder without skip connections, trained to give healthy images back (Eq. 1).

    As a detector of its own (first row of Table 3) its map is the squared error, the mean of the channels.

    Args:
        in_channels: of the images.
        channels: of the levels, see `CHANNELS`.

    Shape:
        input (B, in_channels, H, W), H and W multiples of 2^(levels - 1), 16 by default; output (B, 1, H, W).

    Raises:
        ValueError: images of another shape.
    """

    def __init__(self, in_channels: int = 3, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        check_range("number of channels", len(channels), 2)
        self.in_channels = in_channels
        self.factor = 2 ** (len(channels) - 1)
        self.encoder = FeatureEncoder(in_channels, channels)
        self.decoder = UpDecoder(channels, channels[-1], out_channels=in_channels)
        self.calibration = HealthyCalibration()

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return D_r(E_r(I)), (B, in_channels, H, W)."""
        check_image_batch("ReconstructionAutoencoder", images, self.in_channels)
        check_divisible(images, self.factor)
        return torch.as_tensor(self.decoder(self.encoder(convert_to_tensor(images).float())[-1]))

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map, the squared error of the reconstruction."""
        error = (self.reconstruct(images) - convert_to_tensor(images)).square().mean(1, keepdim=True)
        return convert_to_dst_type(error, images, dtype=torch.float32)[0]


class ReSynthDetect(nn.Module):
    """Localization network E_l, D_l that sees E_r's features beside its own at every level.

    E_r is frozen and in evaluation mode whatever the network's mode.

    Args:
        in_channels: of the images.
        channels: of the levels, see `CHANNELS`.
        guidance: "features" (the paper); "image": the reconstruction beside the input, as DRAEM has it; "none". The
            latter two are rows of Table 3.

    Shape:
        input (B, in_channels, H, W), H and W multiples of 16 by default; output (B, 1, H, W) in [0, 1].

    Raises:
        ValueError: an unknown guidance, or images of another shape.
    """

    def __init__(self, in_channels: int = 3, channels: Sequence[int] = CHANNELS, guidance: str = "features") -> None:
        super().__init__()
        self.in_channels = in_channels
        self.guidance = check_option("guidance", guidance, GUIDANCES)
        self.factor = 2 ** (len(channels) - 1)
        self.reconstruction = ReconstructionAutoencoder(in_channels, channels) if guidance == "image" else None
        self.reconstruction_encoder = FeatureEncoder(in_channels, channels) if guidance == "features" else None
        guides = channels if guidance == "features" else None
        self.encoder = FeatureEncoder(in_channels * (2 if guidance == "image" else 1), channels, guides)
        widths = self.encoder.out_channels
        self.decoder = UpDecoder(channels, widths[-1], widths)
        self.calibration = HealthyCalibration()
        for frozen in (self.reconstruction, self.reconstruction_encoder):
            if frozen is not None:
                frozen.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> ReSynthDetect:
        """Set the mode; what reconstructs stays in evaluation mode."""
        super().train(mode)
        for frozen in (self.reconstruction, self.reconstruction_encoder):
            if frozen is not None:
                frozen.eval()
        return self

    def load_reconstruction(self, file: str | Path | None) -> ReSynthDetect:
        """Load E_r from the weights of a trained `ReconstructionAutoencoder` and return the network.

        Args:
            file: the weights, None to leave E_r untrained (third row of Table 3).

        Raises:
            FileNotFoundError: no such file.
            RuntimeError: weights of another network, or of other widths.
        """
        if file is None or self.guidance == "none":
            return self
        remedy = "train the autoencoder first (train_reconstruction.yaml), or pass its weights."
        path = check_file("reconstruction_ckpt", file, remedy)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if self.reconstruction is not None:
            self.reconstruction.load_state_dict(state)
        if self.reconstruction_encoder is not None:
            prefix = "encoder."
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            self.reconstruction_encoder.load_state_dict(own)
        return self

    def load_weights(self, file: str | Path | None) -> ReSynthDetect:
        """Load the weights of another training, E_r's among them, and return the network.

        Args:
            file: the weights, None to leave the network as it is.

        Raises:
            FileNotFoundError: no such file.
            RuntimeError: weights of another network, or of other widths.
        """
        if file is not None:
            path = check_file("init_ckpt", file, "pass the model.pt of a training, or null for random weights.")
            self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of the anomaly map, (B, 1, H, W)."""
        check_image_batch("ReSynthDetect", images, self.in_channels)
        check_divisible(images, self.factor)
        plain = convert_to_tensor(images).float()
        guides = None
        with torch.no_grad():
            if self.reconstruction_encoder is not None:
                guides = self.reconstruction_encoder(plain)  # F_r^i
            if self.reconstruction is not None:
                plain = torch.cat((self.reconstruction.reconstruct(plain), plain), 1)
        outputs = self.encoder(plain, guides)  # F_c^i
        return torch.as_tensor(self.decoder(outputs[-1], outputs[:-1]))

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map, p of Eq. 2."""
        return convert_to_dst_type(torch.sigmoid(self.logits(images)), images, dtype=torch.float32)[0]
