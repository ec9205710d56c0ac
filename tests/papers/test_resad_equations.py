"""ReSAD's equations (Niu et al. 2023) and PatchCore's Eq. 7 (Roth et al. 2022) against loops from the papers."""

import math

import pytest
import torch
from torch.nn import functional as F

from monai_anomaly.networks.blocks import (
    MemoryBank,
    MultiLevelFeatures,
    RegionFilter,
    RegionSpatialCombination,
    ResNet2d,
    SpatialSelfAttention,
)
from monai_anomaly.networks.nets import ReSAD


def test_eq_2_concatenates_stage_2_and_upscaled_stage_3():
    backbone = ResNet2d("resnet18").eval()
    x = torch.rand(1, 3, 64, 96)
    found = MultiLevelFeatures(backbone)(x)
    f_1 = backbone.layer1(backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x)))))
    f_2 = backbone.layer2(f_1)
    f_3 = backbone.layer3(f_2)
    assert found.shape == (1, 128 + 256, 8, 12)
    torch.testing.assert_close(found[:, :128], f_2)
    torch.testing.assert_close(found[:, 128:], F.interpolate(f_3, (8, 12), mode="bilinear", align_corners=False))


def naive_region(features: torch.Tensor, radius: int) -> torch.Tensor:
    """Eq. 3: the mean of all pixels within the radius, weights falling linearly with the distance."""
    _, height, width = features.shape
    out = torch.zeros_like(features)
    for i in range(height):
        for j in range(width):
            total = 0.0
            for p in range(height):
                for q in range(width):
                    weight = max(0.0, 1 - math.hypot(p - i, q - j) / (radius + 1))
                    total += weight
                    out[:, i, j] += weight * features[:, p, q]
            out[:, i, j] /= total
    return out


@pytest.mark.parametrize("shape", [(3, 7, 9), (70, 6, 5)])
def test_eq_3_region_filter(shape):
    features = torch.randn(shape)
    torch.testing.assert_close(RegionFilter(2)(features[None])[0], naive_region(features, 2), atol=1e-5, rtol=1e-5)


def test_eq_3_kernel_of_the_paper():
    region = RegionFilter(12)
    assert region.kernel.shape == (25, 25)
    assert float(region.kernel.sum()) == pytest.approx(1)
    assert float(region.kernel[12, 12]) == pytest.approx(1 / 176.916, rel=1e-5)
    assert int((region.kernel > 0).sum()) == 517
    for turned in (region.kernel.rot90(), region.kernel.flip(0), region.kernel.flip(1)):
        torch.testing.assert_close(turned, region.kernel)


def test_eq_3_keeps_constant_maps():
    constant = torch.full((1, 2, 5, 40), 3.0)
    torch.testing.assert_close(RegionFilter(12)(constant), constant)


def naive_attention(features: torch.Tensor, reading: str, temperature: float) -> torch.Tensor:
    """Eq. 4 by a loop over pixels, F as (pixels, channels)."""
    rows = features.flatten(1).T
    result = torch.zeros_like(rows)
    for i, row in enumerate(rows):
        if reading == "cosine":
            g = torch.stack([torch.dot(row, other) / (row.norm() * other.norm()) / temperature for other in rows])
        else:
            g = torch.stack([torch.dot(row, other) for other in rows])
            g = g / math.sqrt(len(row)) if reading == "scaled" else g
        weights = torch.softmax(g, 0)
        mean = sum(w * other for w, other in zip(weights, rows, strict=True))
        result[i] = row * weights[i] if reading == "diagonal" else mean
    return result.T.reshape(features.shape)


@pytest.mark.parametrize("reading", ["cosine", "literal", "scaled", "diagonal"])
def test_eq_4_attention(reading, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules[SpatialSelfAttention.__module__], "_ROW_CHUNK", 7)
    features = torch.randn(5, 4, 6) * 0.5
    found = SpatialSelfAttention(reading, 0.1)(features[None])[0]
    torch.testing.assert_close(found, naive_attention(features, reading, 0.1), atol=1e-5, rtol=1e-4)


def test_eq_4_literal_is_the_identity_for_wide_positive_features():
    features = torch.rand(1, 1536, 6, 6) * 3
    torch.testing.assert_close(SpatialSelfAttention("literal")(features), features, atol=1e-3, rtol=1e-3)


def test_eq_4_means_lie_between_the_features_and_follow_permutations():
    features = torch.rand(1, 8, 5, 5)
    attention = SpatialSelfAttention()
    mixed = attention(features)
    assert (mixed <= features.amax((2, 3), keepdim=True) + 1e-5).all()
    assert (mixed >= features.amin((2, 3), keepdim=True) - 1e-5).all()
    order = torch.randperm(25)
    permuted = features.flatten(2)[..., order].view_as(features)
    torch.testing.assert_close(attention(permuted).flatten(2), mixed.flatten(2)[..., order])


def test_eq_5_adds_both():
    features = torch.randn(2, 6, 5, 7)
    combined = RegionSpatialCombination(2, "cosine", 0.2)(features)
    torch.testing.assert_close(combined, RegionFilter(2)(features) + SpatialSelfAttention("cosine", 0.2)(features))


def test_eq_5_of_constant_features_is_twice_them():
    features = torch.full((1, 4, 6, 6), 2.0)
    torch.testing.assert_close(RegionSpatialCombination()(features), 2 * features)


def test_eq_5_without_modules_changes_nothing():
    features = torch.randn(1, 4, 6, 6)
    assert RegionSpatialCombination(0, "none")(features) is features
    torch.testing.assert_close(RegionSpatialCombination(0, "cosine")(features), SpatialSelfAttention()(features))
    torch.testing.assert_close(RegionSpatialCombination(3, "none")(features), RegionFilter(3)(features))


def test_eq_7_distance_to_the_nearest_row_interpolated():
    network = ReSAD(backbone="resnet18", radius=2).load_backbone("random").eval()
    bank = torch.randn(20, 384)
    network.memory_bank = MemoryBank(bank)
    x = torch.rand(2, 3, 64, 64)
    c = network.features(x)
    expected = torch.zeros(2, 1, 8, 8)
    for k in range(2):
        for i in range(8):
            for j in range(8):
                expected[k, 0, i, j] = min(float((b - c[k, :, i, j]).norm()) for b in bank)
    expected = F.interpolate(expected, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network(x), expected, atol=1e-3, rtol=1e-4)


def test_patchcore_eq_7_reweights_the_score():
    network = (
        ReSAD(backbone="resnet18", radius=0, attention="none", reweight_neighbors=3).load_backbone("random").eval()
    )
    network.memory_bank = MemoryBank(torch.rand(10, 384) * 0.2)
    x = torch.rand(1, 3, 64, 64)
    _, score = network.map_and_score(x)
    vectors, rows = network.features(x).flatten(2)[0].T, network.memory_bank.rows
    distances = torch.stack([torch.stack([(v - r).norm() for r in rows]) for v in vectors])
    patch = int(distances.min(1).values.argmax())  # c^*
    nearest = int(distances[patch].argmin())  # m^*
    d = distances[patch, nearest]
    around = torch.stack([(rows[nearest] - r).norm() for r in rows]).argsort()[:3]  # N_b(m^*)
    weight = 1 - d.double().exp() / distances[patch, around].double().exp().sum()
    assert float(score) == pytest.approx(float(weight * d), rel=1e-4)


def test_patchcore_equal_distances_give_one_minus_one_over_b():
    network = ReSAD(backbone="resnet18", reweight_neighbors=9)
    network.memory_bank = MemoryBank(torch.eye(12))
    score = network._reweight(torch.zeros(12), torch.tensor(0))
    assert float(score) == pytest.approx(8 / 9)
