"""ReSAD and PatchCore: distance to a bank of healthy features of a pretrained network.

Niu et al. 2023, "Region and Spatial Aware Anomaly Detection for Fundus Images"; Roth et al. 2022, "Towards Total
Recall in Industrial Anomaly Detection" (PatchCore), which is the same network without ReSC.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.networks.layers import GaussianFilter
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_image_batch, check_range
from monai_anomaly.networks.blocks.healthy_calibration import HealthyCalibration
from monai_anomaly.networks.blocks.memory_bank import MemoryBank
from monai_anomaly.networks.blocks.multi_level_features import MultiLevelFeatures
from monai_anomaly.networks.blocks.region_spatial_combination import RegionSpatialCombination
from monai_anomaly.networks.blocks.wide_resnet import ResNet2d, load_resnet_weights

_PROVENANCE_BYTES = 128


class ReSAD(nn.Module):
    """Anomaly map by region and spatial aware features and a memory bank.

    F = concat(f_2, up(f_3)) of a pretrained network (Eqs. 1-2), C = P + R (Eqs. 3-5), the map is the distance of each
    C(x, y) to its nearest vector of the compressed bank of healthy ones (Eqs. 6-7), resized to the image.
    ``radius=0, attention="none", pooling_size=3, smoothing_sigma=4`` is PatchCore.

    The network holds no trained weights until `load_backbone` or a checkpoint brings them, and no bank until an engine
    fits it (`monai_anomaly.engines.MemoryBankFitter`); both are in ``state_dict``.

    Args:
        backbone: name of a `ResNet2d` layout (paper: "wide_resnet50_2").
        in_channels: channels of the images; anything but 3 folds the first convolution.
        levels: stages whose outputs are used (paper: 2 and 3).
        pooling_size: side of the average pool on each stage (paper: none, 1; PatchCore: 3).
        radius: of the region filter in feature-map pixels, 0 for none (paper: 12).
        attention: reading of Eq. 4, see `SpatialSelfAttention`.
        temperature: of "cosine" attention.
        smoothing_sigma: of a Gaussian on the map in pixels, 0 for none (paper: none; PatchCore: 4).
        reweight_neighbors: rows used to re-weight the image score, 0 for the plain maximum (PatchCore: 9 or 0).
        memory_bank: the bank; by default an empty one.

    Shape:
        input (B, in_channels, H, W), output (B, 1, H, W).

    Raises:
        ValueError: arguments out of range, or images of another shape.
        RuntimeError: a map is asked for before the bank is fitted.
    """

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        in_channels: int = 3,
        levels: Sequence[int] = (2, 3),
        pooling_size: int = 1,
        radius: int = 12,
        attention: str = "cosine",
        temperature: float = 0.1,
        smoothing_sigma: float = 0.0,
        reweight_neighbors: int = 0,
        memory_bank: MemoryBank | None = None,
    ) -> None:
        super().__init__()
        check_range("smoothing_sigma", smoothing_sigma, 0)
        check_range("reweight_neighbors", reweight_neighbors, 0)
        self.backbone = backbone
        self.in_channels = in_channels
        self.reweight_neighbors = reweight_neighbors
        self._told = f"{backbone}, levels={list(levels)}, pooling_size={pooling_size}, radius={radius}, "
        self._told += f"attention={attention}, temperature={temperature}, smoothing_sigma={smoothing_sigma}, "
        self._told += f"reweight_neighbors={reweight_neighbors}"
        self.feature_extractor = MultiLevelFeatures(ResNet2d(backbone, in_channels), levels, pooling_size)
        self.feature_extractor.requires_grad_(False)
        self.combination = RegionSpatialCombination(radius, attention, temperature)
        self.smoothing = GaussianFilter(2, smoothing_sigma) if smoothing_sigma else None
        self.memory_bank = MemoryBank() if memory_bank is None else memory_bank
        self.calibration = HealthyCalibration()
        self.register_buffer("_provenance", torch.zeros(_PROVENANCE_BYTES, dtype=torch.uint8))
        self._provenance: Tensor

    def extra_repr(self) -> str:
        """Tell the options that no part of the network shows."""
        return self._told

    def train(self, mode: bool = True) -> ReSAD:
        """Set the mode; the feature extractor stays in evaluation mode: its batch statistics are weights."""
        super().train(mode)
        self.feature_extractor.eval()
        return self

    def load_backbone(self, weights: str | Path = "imagenet", seed: int = 0) -> ReSAD:
        """Load the feature extractor's weights and return the network.

        Args:
            weights: "imagenet", "random", a URL or a file in torchvision's format, see `load_resnet_weights`.
            seed: of "random".
        """
        whole = ResNet2d(self.backbone, self.in_channels)
        self.feature_provenance = load_resnet_weights(whole, self.backbone, weights, seed)
        same = MultiLevelFeatures(whole, self.feature_extractor.levels)
        self.feature_extractor.load_state_dict(same.state_dict())
        return self

    @property
    def feature_provenance(self) -> str:
        """Where the features come from, as the checkpoint says; "unknown" before `load_backbone`."""
        text = bytes(self._provenance.tolist()).rstrip(b"\0").decode()
        return text or "unknown"

    @feature_provenance.setter
    def feature_provenance(self, text: str) -> None:
        data = text.encode()[:_PROVENANCE_BYTES].ljust(_PROVENANCE_BYTES, b"\0")
        self._provenance.copy_(torch.tensor(list(data), dtype=torch.uint8))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the region and spatial aware features C, (B, C, h, w), Eq. 5."""
        check_image_batch("ReSAD", images, self.in_channels)
        return self.combination(self.feature_extractor(convert_to_tensor(images).float()))

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map at the images' resolution."""
        check_image_batch("ReSAD", images, self.in_channels)
        return self._to_map(self._distances(images)[0], images)

    def map_and_score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the anomaly map (B, 1, H, W) and the image scores (B,).

        The score is the map's maximum, or with ``reweight_neighbors`` PatchCore's re-weighted distance
        s = (1 - exp(d*) / sum over m in N_b(m*) of exp(||c* - m||)) d* (Roth et al. 2022, Eq. 7).
        """
        distances, vectors, nearest = self._distances(images)
        anomaly_map = self._to_map(distances, images)
        if not self.reweight_neighbors:
            return anomaly_map, anomaly_map.amax((1, 2, 3))
        worst = distances.flatten(1).argmax(1)  # c^* of each image
        scores = [self._reweight(v[w], n[w]) for v, n, w in zip(vectors, nearest, worst, strict=True)]
        return anomaly_map, torch.stack(scores)

    def _distances(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances (B, h, w), the vectors (B, hw, C) and the nearest rows (B, hw)."""
        if not self.memory_bank.is_fitted:
            self.memory_bank.search(images.new_empty(0, 0))  # says what to do
        features = self.features(images)
        vectors = features.flatten(2).transpose(1, 2)  # (B, hw, C)
        distances, nearest = self.memory_bank.search(vectors.reshape(-1, vectors.shape[2]))
        batch, (height, width) = len(features), features.shape[-2:]
        return distances.mean(1).view(batch, height, width), vectors, nearest[:, 0].view(batch, -1)

    def _to_map(self, distances: Tensor, images: Tensor) -> Tensor:
        """Return distances (B, h, w) at the images' resolution, with the images' metadata."""
        size = tuple(images.shape[-2:])
        anomaly_map = F.interpolate(distances[:, None], size, mode="bilinear", align_corners=False)
        if self.smoothing is not None:  # the filter pads with zeros: dividing by the weights inside keeps the border
            anomaly_map = self.smoothing(anomaly_map) / self.smoothing(torch.ones_like(anomaly_map[:1]))
        return convert_to_dst_type(anomaly_map, images, dtype=torch.float32)[0]

    def _reweight(self, vector: Tensor, nearest: Tensor) -> Tensor:
        """Return s of one image from c^* (C,) and the index of m^*."""
        bank = self.memory_bank
        count = min(self.reweight_neighbors, len(bank.rows))
        around = bank.search(bank.rows[nearest][None], count)[1][0]  # N_b(m^*), m^* among them
        distances = torch.linalg.vector_norm(bank.rows[around] - vector, dim=1)
        own = torch.linalg.vector_norm(bank.rows[nearest] - vector)  # d^*
        return (1 - (own - distances.logsumexp(0)).exp()) * own
