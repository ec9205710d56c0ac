"""ReSynthDetect's equations (Niu et al. 2023) against loops from the paper, and the numbers that follow from it."""

import math

import numpy as np
import pytest
import torch
from monai.losses import FocalLoss

from monai_anomaly.engines import warmup_cosine
from monai_anomaly.networks.nets import ReconstructionAutoencoder, ReSynthDetect
from monai_anomaly.transforms import AnomalyScore, fusion_weights, perlin_noise, self_mix

SMALL = (4, 8, 8)


def test_eq_1_is_the_mean_square_of_what_reconstruct_returns():
    network = ReconstructionAutoencoder(channels=SMALL).eval()
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        again = network.reconstruct(images)
        found = network(images)
    naive = torch.zeros(2, 1, 8, 8)
    for b in range(2):
        for i in range(8):
            for j in range(8):
                naive[b, 0, i, j] = sum(float(again[b, c, i, j] - images[b, c, i, j]) ** 2 for c in range(3)) / 3
    torch.testing.assert_close(found, naive)
    assert float(torch.nn.MSELoss()(again, images)) == pytest.approx(float(naive.mean()), rel=1e-5)


def naive_focal(p: float, y: int, tau: float = 2.0) -> float:
    return -((1 - p) ** tau) * math.log(p) if y else -(p**tau) * math.log(1 - p)


@pytest.mark.parametrize(("p", "y", "expected"), [(0.5, 1, 0.17329), (0.9, 1, 0.0010536), (0.9, 0, 1.8651)])
def test_eq_2_closed_values(p, y, expected):
    logit, label = torch.tensor(math.log(p / (1 - p))).view(1, 1, 1, 1), torch.full((1, 1, 1, 1), float(y))
    found = float(FocalLoss(gamma=2)(logit, label))
    assert found == pytest.approx(expected, rel=1e-4)
    assert found == pytest.approx(naive_focal(p, y), rel=1e-4)
    assert float(FocalLoss(gamma=2)(-logit, 1 - label)) == pytest.approx(found, rel=1e-5)


def test_eq_2_over_an_image():
    logits, label = torch.randn(2, 1, 4, 5), (torch.rand(2, 1, 4, 5) > 0.7).float()
    p = torch.sigmoid(logits).flatten().tolist()
    naive = sum(naive_focal(a, int(b)) for a, b in zip(p, label.flatten().tolist(), strict=True)) / 40
    assert float(FocalLoss(gamma=2)(logits, label)) == pytest.approx(naive, rel=1e-5)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
    assert float(FocalLoss(gamma=0)(logits, label)) == pytest.approx(float(cross_entropy), rel=1e-5)


def naive_weights(mask: np.ndarray, alpha: float) -> np.ndarray:
    """Eq. 3, with the distance to the nearest pixel outside, beyond the border as well."""
    height, width = mask.shape
    outside = [
        (i, j)
        for i in range(-1, height + 1)
        for j in range(-1, width + 1)
        if not (0 <= i < height and 0 <= j < width and mask[i, j])
    ]
    distance = np.zeros(mask.shape)
    for i in range(height):
        for j in range(width):
            if mask[i, j]:
                distance[i, j] = min(math.hypot(i - p, j - q) for p, q in outside)
    return (1 - alpha) * (distance - 0) / (distance.max() - 0) + alpha


@pytest.mark.parametrize("alpha", [0.7, 0.0, 1.0])
def test_eq_3(alpha):
    mask = np.random.default_rng(1).random((9, 11)) > 0.4
    np.testing.assert_allclose(fusion_weights(mask, alpha), naive_weights(mask, alpha), atol=1e-5)


def test_eq_3_closed_values():
    square = np.zeros((7, 7))
    square[1:6, 1:6] = 1
    weights = fusion_weights(square)
    np.testing.assert_allclose((square * weights)[3], [0, 0.8, 0.9, 1, 0.9, 0.8, 0], atol=1e-6)
    assert weights[0, 0] == pytest.approx(0.7)
    single = np.zeros((3, 3))
    single[1, 1] = 1
    assert fusion_weights(single)[1, 1] == 1
    full = fusion_weights(np.ones((5, 5)))  # no background but beyond the border
    assert full[2, 2] == 1
    assert full[0, 0] == pytest.approx(0.8)


def test_eq_4():
    rng = np.random.default_rng(0)
    source, target = rng.random((6, 7, 3)), rng.random((6, 7, 3))
    mask = rng.random((6, 7)) > 0.5
    weights = fusion_weights(mask)
    found = self_mix(source, target, mask, weights)
    for i in range(6):
        for j in range(7):
            for c in range(3):
                share = float(mask[i, j]) * float(weights[i, j])
                assert found[i, j, c] == pytest.approx(
                    share * source[i, j, c] + (1 - share) * target[i, j, c], rel=1e-5
                )
    assert np.allclose(found[~mask], target[~mask])
    low, high = np.minimum(source, target), np.maximum(source, target)
    assert ((found >= low - 1e-6) & (found <= high + 1e-6)).all()


def test_parameters():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        autoencoder, network = ReconstructionAutoencoder(), ReSynthDetect()
        assert count(autoencoder) == 19_594_179
        assert count(autoencoder.encoder) == count(network.reconstruction_encoder) == 9_410_880
        assert count(network.encoder) == 13_318_464
        assert count(network.decoder) == pytest.approx(18.8e6, rel=1e-3)


def test_features_of_both_encoders_go_on_at_every_level():
    network = ReSynthDetect(channels=SMALL).eval()
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        guides = network.reconstruction_encoder(images)
        f_c = network.encoder(images, guides)
        level_1 = torch.cat((guides[0], network.encoder.stages[0](images)), 1)
        level_2 = torch.cat((guides[1], network.encoder.stages[1](torch.nn.functional.max_pool2d(level_1, 2))), 1)
    torch.testing.assert_close(f_c[0], level_1)
    torch.testing.assert_close(f_c[1], level_2)


def test_score_is_the_mean_of_the_ten_highest_pixels():
    anomaly_map = torch.zeros(1, 1, 20, 20)
    anomaly_map.view(-1)[:10] = 1
    assert float(AnomalyScore(top_k=10)(anomaly_map[0])) == 1
    anomaly_map.view(-1)[0] = 0
    assert float(AnomalyScore(top_k=10)(anomaly_map[0])) == pytest.approx(0.9)


def test_learning_rate_of_section_4_1():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 5e-5)
    schedule = warmup_cosine(optimizer, 50, 300)
    rates = []
    for _ in range(301):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(5e-5 / 51)  # 0 would spend an epoch on nothing
    assert np.allclose(np.diff(rates[:51]), 5e-5 / 51)
    assert rates[50] == max(rates) == pytest.approx(5e-5)
    assert rates[300] == min(rates[50:]) == pytest.approx(2.5e-5)
    with pytest.raises(ValueError, match="warmup_epochs must be at least 0 and at most 9, got 50"):
        warmup_cosine(optimizer, 50, 10)


def test_perlin_noise():
    noise = perlin_noise((256, 256), (8, 16), np.random.RandomState(0))
    assert np.abs(noise).max() <= 1
    assert np.abs(noise[::32, ::16]).max() < 1e-6  # the lattice's nodes
    assert perlin_noise((100, 77), (32, 3), np.random.RandomState(0)).shape == (100, 77)
    rng = np.random.RandomState(0)
    cells = [[2 ** rng.randint(0, 6) for _ in range(2)] for _ in range(60)]
    shares = [(perlin_noise((256, 256), pair, rng) > 0.5).mean() for pair in cells]
    assert 0.03 < np.mean(shares) < 0.08
    with pytest.raises(ValueError, match="cells must be at least 1"):
        perlin_noise((8, 8), (0, 1), rng)


def test_perlin_noise_against_a_loop():
    rng = np.random.RandomState(3)
    found = perlin_noise((12, 8), (3, 2), rng)
    angles = 2 * np.pi * np.random.RandomState(3).random_sample((4, 3))
    for i in range(12):
        for j in range(8):
            y, x = i * 3 / 12, j * 2 / 8
            row, column = int(y), int(x)
            y, x = y - row, x - column
            value = {}
            for down in (0, 1):
                for right in (0, 1):
                    angle = angles[row + down, column + right]
                    value[down, right] = math.sin(angle) * (y - down) + math.cos(angle) * (x - right)
            fade_y, fade_x = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (y, x))
            top = value[0, 0] + fade_x * (value[0, 1] - value[0, 0])
            bottom = value[1, 0] + fade_x * (value[1, 1] - value[1, 0])
            assert found[i, j] == pytest.approx(math.sqrt(2) * (top + fade_y * (bottom - top)), abs=1e-5)
