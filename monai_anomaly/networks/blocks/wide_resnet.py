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

    def __init__(self, in_channels: int, channels: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        del width
        first, second = dilations
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, first, first, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, second, second, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """A 3x3 convolution of ``width`` channels between two 1x1 ones, and a shortcut; the 3x3 strides."""

    def __init__(self, in_channels: int, channels: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        dilation = dilations[0]
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
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
        num_classes: outputs of the last linear layer; 0 for a network without it.
        output_stride: of the last stage: 32, or 16 or 8 with dilated convolutions in place of the last strides.
        width: factor of all widths; weights in torchvision's format are of 1.

    Shape:
        input (B, in_channels, H, W), output (B, num_classes).

    Raises:
        ValueError: unknown name, in_channels < 1, another output_stride, or no width.
    """

    def __init__(
        self,
        name: str = "wide_resnet50_2",
        in_channels: int = 3,
        num_classes: int = 1000,
        output_stride: int = 32,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        layout = LAYOUTS[check_option("backbone", name, list(LAYOUTS))]
        check_range("in_channels", in_channels, 1)
        check_option("output_stride", output_stride, (8, 16, 32))
        check_range("width", width, 1 / 16)
        expansion = 4 if layout.bottleneck else 1
        stem, inner = int(64 * width), int(layout.width * width)
        self.stage_channels = tuple(stem * 2**stage * expansion for stage in range(4))
        self.conv1 = nn.Conv2d(in_channels, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block = _Bottleneck if layout.bottleneck else _Basic
        previous, dilation = stem, 1
        for stage, channels in enumerate(self.stage_channels):
            dilated = 4 * 2**stage > output_stride
            layers: list[nn.Module] = []
            for index in range(layout.num_blocks[stage]):
                stride = 2 if stage > 0 and index == 0 and not dilated else 1
                before = dilation  # where a stride is left out, what comes after it is spread, not what had it
                dilation *= 2 if dilated and index == 0 else 1
                layers.append(block(previous, channels, inner * 2**stage, stride, (before, dilation)))
                previous = channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(previous, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the features of layer1 to layer4, at strides of 4, 8, 16 and 32 (or ``output_stride``)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits, (B, num_classes)."""
        return self.fc(self.avgpool(self.stages(x)[-1]).flatten(1))


def load_trunk_weights(trunk: ResNet2d, name: str, weights: str | Path, num_extra: int = 0) -> str:
    """Load all but the last layer into a network of ``num_classes=0`` and return where the weights came from.

    Args:
        trunk: of width 1 and any output stride.
        name: see `load_resnet_weights`.
        weights: see `load_resnet_weights`.
        num_extra: last input channels that are no picture: their weights stay as they are.
    """
    own = trunk.conv1.weight.detach()
    whole = ResNet2d(name, own.shape[1] - num_extra)
    provenance = load_resnet_weights(whole, name, weights)
    state = {key: value for key, value in whole.state_dict().items() if not key.startswith("fc.")}
    state["conv1.weight"] = torch.cat((state["conv1.weight"], own[:, own.shape[1] - num_extra :]), 1)
    trunk.load_state_dict(state)
    return provenance


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
            num_classes = network.fc.out_features if isinstance(network.fc, nn.Linear) else 0
            network.load_state_dict(ResNet2d(name, network.conv1.in_channels, num_classes).state_dict())
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
