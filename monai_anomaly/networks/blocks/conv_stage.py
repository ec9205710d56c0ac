"""Convolutions at one resolution, each followed by an activation and a normalization."""

from __future__ import annotations

from monai.networks.blocks import Convolution
from torch import nn

from monai_anomaly.checks import check_option


class ConvStage(nn.Sequential):
    """[3 x 3 convolution, ReLU, batch normalization] twice, or with the normalization before the activation.

    Args:
        in_channels: of the input.
        out_channels: of each convolution.
        ordering: "AN": activation, then normalization (ASC-Net); "NA": the other way round (ReSynthDetect, DRAEM).
        num_convs: how many convolutions.

    Shape:
        input (B, in_channels, H, W), output (B, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, ordering: str = "AN", num_convs: int = 2) -> None:
        check_option("ordering", ordering, ("AN", "NA"))
        super().__init__(
            *(
                Convolution(2, channels, out_channels, kernel_size=3, adn_ordering=ordering, act="RELU", norm="BATCH")
                for channels in [in_channels, *[out_channels] * (num_convs - 1)]
            )
        )
