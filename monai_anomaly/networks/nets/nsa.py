"""NSA: a network that finds patches of other healthy images, blended in.

Schlueter et al. 2022, "Natural synthetic anomalies for self-supervised anomaly detection and localization", section
3.3 and the authors' code.
"""

from __future__ import annotations

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_image_batch
from monai_anomaly.networks.blocks.healthy_calibration import HealthyCalibration
from monai_anomaly.networks.blocks.wide_resnet import ResNet2d

_FACTOR = 32


class _UpBlock(nn.Module):
    """A residual block whose first convolution and shortcut are transposed, at twice the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, output_padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, 1, 2, output_padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.upsample(x))


class NSANet(nn.Module):
    """A ResNet-18 encoder and a transposed decoder without skip connections. 11,491,440 parameters by default.

    Args:
        in_channels: of the images.

    Shape:
        input (B, in_channels, H, W) in [0, 1], any H and W: padded to multiples of 32 and cropped again; output
        (B, 1, H, W) in [0, 1].

    Raises:
        ValueError: images of another shape.
    """

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = ResNet2d("resnet18", in_channels, 1)
        del self.encoder.fc
        self.bottleneck = nn.Sequential(
            nn.Conv2d(512, 256, 1, bias=False), nn.ReLU(), nn.Conv2d(256, 128, 1, bias=False), nn.ReLU()
        )
        self.decoder = nn.Sequential(_UpBlock(128, 64), _UpBlock(64, 32), _UpBlock(32, 16))
        self.head = nn.ConvTranspose2d(16, 1, 7, 2, 3, output_padding=1, bias=False)
        self.calibration = HealthyCalibration()
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of the anomaly map, (B, 1, H, W)."""
        check_image_batch("NSANet", images, self.in_channels)
        plain = convert_to_tensor(images).float()
        bottom, right = (-n % _FACTOR for n in plain.shape[2:])
        x = F.pad(plain, (0, right, 0, bottom), mode="replicate") if bottom or right else plain
        net = self.encoder
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for stage in range(1, 5):
            x = net.get_submodule(f"layer{stage}")(x)
        x = self.decoder(self.bottleneck(x))
        x = self.head(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True))
        return torch.as_tensor(x[..., : plain.shape[2], : plain.shape[3]])

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map."""
        return convert_to_dst_type(torch.sigmoid(self.logits(images)), images, dtype=torch.float32)[0]
