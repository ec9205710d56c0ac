"""ResNets for 2-D images, layer for layer as torchvision names them, so that its weights load strictly.

He et al. 2016, "Deep residual learning"; Zagoruyko and Komodakis 2016, "Wide residual networks".
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.networks.blocks.weights import fold_first_convolution, read_weights

logger = logging.getLogger(__name__)


class _Layout(NamedTuple):
    """Blocks of each stage, whether they are bottlenecks, their width at the first stage, ImageNet weights."""

    num_blocks: tuple[int, int, int, int]
    bottleneck: bool
    width: int
    weights_url: str


_HUB = "https://download.pytorch.org/models/"
LAYOUTS = {  # file names end in the first eight digits of the file's SHA-256, which the download checks
    "resnet18": _Layout((2, 2, 2, 2), False, 64, _HUB + "resnet18-f37072fd.pth"),
    "resnet34": _Layout((3, 4, 6, 3), False, 64, _HUB + "resnet34-b627a593.pth"),
    "resnet50": _Layout((3, 4, 6, 3), True, 64, _HUB + "resnet50-0676ba61.pth"),
    "resnet101": _Layout((3, 4, 23, 3), True, 64, _HUB + "resnet101-63fe2227.pth"),
    "resnet152": _Layout((3, 8, 36, 3), True, 64, _HUB + "resnet152-394f9c45.pth"),
    "wide_resnet50_2": _Layout((3, 4, 6, 3), True, 128, _HUB + "wide_resnet50_2-95faca4d.pth"),
    "wide_resnet101_2": _Layout((3, 4, 23, 3), True, 128, _HUB + "wide_resnet101_2-32ee1156.pth"),
}


class _Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, width: int, stride: int) -> None:
        super().__init__()
        del width
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """A 3x3 convolution of ``width`` channels between two 1x1 ones, and a shortcut; the 3x3 strides."""

    def __init__(self, in_channels: int, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class ResNet2d(nn.Module):
    """A residual network for 2-D images with torchvision's ``conv1 bn1 relu maxpool layer1…layer4 avgpool fc``.

    Args:
        name: one of `LAYOUTS`; "wide_resnet50_2" doubles the inner width of "resnet50".
        in_channels: channels of the image, at least 1; other than 3 the first convolution is folded on loading.
        num_classes: outputs of the last linear layer.

    Shape:
        input (B, in_channels, H, W), output (B, num_classes).

    Raises:
        ValueError: unknown name, or in_channels < 1.
    """

    def __init__(self, name: str = "wide_resnet50_2", in_channels: int = 3, num_classes: int = 1000) -> None:
        super().__init__()
        layout = LAYOUTS[check_option("backbone", name, list(LAYOUTS))]
        check_range("in_channels", in_channels, 1)
        expansion = 4 if layout.bottleneck else 1
        self.stage_channels = tuple(64 * 2**stage * expansion for stage in range(4))
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block = _Bottleneck if layout.bottleneck else _Basic
        previous = 64
        for stage, channels in enumerate(self.stage_channels):
            layers = []
            for index in range(layout.num_blocks[stage]):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(block(previous, channels, layout.width * 2**stage, stride))
                previous = channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(previous, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits, (B, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def wide_resnet50_2(in_channels: int = 3, num_classes: int = 1000) -> ResNet2d:
    """Return a WideResNet-50-2: 68,883,240 parameters with three channels and 1,000 classes."""
    return ResNet2d("wide_resnet50_2", in_channels, num_classes)


def imagenet_statistics(in_channels: int = 3) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation that ImageNet networks expect per channel, of values in [0, 1].

    For other than three channels, each gets the mean of the three.
    """
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    if in_channels == 3:
        return mean, std
    return [sum(mean) / 3] * in_channels, [sum(std) / 3] * in_channels


def load_resnet_weights(network: ResNet2d, name: str, weights: str | Path, seed: int = 0) -> str:
    """Load weights in torchvision's format into ``network``, strictly, and return where they came from.

    Args:
        network: the network, whose first convolution is folded to its number of channels.
        name: the layout's name in `LAYOUTS`.
        weights: "imagenet" (torchvision's IMAGENET1K_V1, from torch's hub cache or downloaded into it and checked
            against the SHA-256 digits in the file's name), "random" (He initialization from ``seed``), a URL, or a
            local file.
        seed: of the random weights.

    Returns:
        A short text: "random (seed 0), untrained", or the file's name and the first digits of its SHA-256.

    Raises:
        FileNotFoundError: no such file, or no network to download it from.
        ValueError: the file is no state dict, or its names or shapes are not the network's.
    """
    if str(weights) == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network.load_state_dict(ResNet2d(name, network.conv1.in_channels, network.fc.out_features).state_dict())
        logger.warning(
            "The features are untrained: weights='random' (seed %d). Read every figure with that in mind.",
            seed,
        )
        return f"random (seed {seed}), untrained"
    state, provenance = read_weights(weights, LAYOUTS[name].weights_url)
    if "conv1.weight" in state:
        state["conv1.weight"] = fold_first_convolution(state["conv1.weight"], network.conv1.in_channels)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        msg = f"weights {str(weights)!r} do not fit {name}: {' '.join(str(error).split())[:300]}"
        raise ValueError(msg) from error
    return provenance
