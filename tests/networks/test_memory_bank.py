"""Coreset, nearest neighbors, memory bank and calibration."""

import pytest
import torch

from monai_anomaly.networks.blocks import (
    HealthyCalibration,
    MemoryBank,
    johnson_lindenstrauss_dim,
    k_center_greedy,
    nearest_neighbors,
    sparse_random_projection,
)
from monai_anomaly.networks.blocks.nearest_neighbors import CoarseBank


def plain_greedy(features, num_centers, start=0):
    """Farthest-first traversal as in the textbook."""
    distances = torch.full((len(features),), float("inf"), dtype=torch.float64)
    picks = [start]
    while len(picks) < num_centers:
        distances = torch.minimum(distances, (features.double() - features[picks[-1]].double()).square().sum(1))
        distances[picks] = -1
        picks.append(int(distances.argmax()))
    return torch.tensor(picks)


def clustered(num_rows, num_dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(20, num_dims, generator=generator) * 5
    return centers[torch.randint(20, (num_rows,), generator=generator)] + torch.randn(
        num_rows, num_dims, generator=generator
    )


@pytest.mark.parametrize(
    ("num_rows", "num_centers", "block_size"), [(60, 60, 7), (3000, 400, None), (2000, 150, 64), (500, 1, None)]
)
def test_picks_are_those_of_the_plain_greedy(num_rows, num_centers, block_size):
    features = clustered(num_rows, 24)
    found = k_center_greedy(features, num_centers, start=5, block_size=block_size)
    assert found.tolist() == plain_greedy(features, num_centers, 5).tolist()
    assert found.dtype == torch.int64


def test_picks_survive_a_large_mean_and_half_precision():
    features = clustered(1000, 16) + 1000
    assert len(set(k_center_greedy(features, 100).tolist()) & set(plain_greedy(features, 100).tolist())) >= 99
    half = clustered(1000, 16).half()
    assert len(set(k_center_greedy(half, 100).tolist()) & set(plain_greedy(half, 100).tolist())) >= 99


def test_duplicates_are_picked_once_each_and_all_rows_can_be_picked():
    features = torch.ones(300, 4)
    assert sorted(k_center_greedy(features, 300).tolist()) == list(range(300))


def test_covering_radius_does_not_grow():
    features = clustered(800, 8)
    picks = k_center_greedy(features, 100)
    radii = [float(torch.cdist(features, features[picks[:n]]).amin(1).max()) for n in range(1, 100, 9)]
    assert radii == sorted(radii, reverse=True)


def test_k_center_errors():
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        k_center_greedy(torch.zeros(3), 1)
    with pytest.raises(ValueError, match="num_centers"):
        k_center_greedy(torch.zeros(3, 2), 4)
    with pytest.raises(ValueError, match="start"):
        k_center_greedy(torch.zeros(3, 2), 1, start=3)
    with pytest.raises(ValueError, match="NaN"):
        k_center_greedy(torch.tensor([[0.0], [float("nan")]]), 2)


@pytest.mark.parametrize("precision", ["float32", "projected", "bfloat16", "int8", "auto"])
@pytest.mark.parametrize("num_neighbors", [1, 3])
def test_neighbors_are_those_of_cdist(precision, num_neighbors):
    bank = clustered(5000, 64)
    queries = torch.cat((bank[:50], clustered(1100, 64, seed=1)))
    distances, indices = nearest_neighbors(queries, bank, num_neighbors, precision=precision)
    expected = torch.cdist(queries.double(), bank.double()).topk(num_neighbors, largest=False)
    torch.testing.assert_close(distances.double(), expected.values, atol=1e-4, rtol=1e-4)
    assert (indices == expected.indices).float().mean() > 0.999
    assert (distances[:50, 0] == 0).all()  # rows of the bank are at distance exactly 0


@pytest.mark.parametrize("precision", ["projected", "int8", "bfloat16"])
def test_a_coarse_pass_that_cannot_tell_rows_apart_is_done_again(precision):
    """Rows that differ by less than the coarse pass can see, beside far larger ones."""
    generator = torch.Generator().manual_seed(3)
    bank = torch.randn(3000, 300, generator=generator) * 50
    bank[:1500] = torch.randn(300, generator=generator) * 20 + torch.randn(1500, 300, generator=generator) * 0.3
    queries = bank[:200] + torch.randn(200, 300, generator=generator) * 0.05
    distances, indices = nearest_neighbors(queries, bank, precision=precision)
    expected = torch.cdist(queries.double(), bank.double()).min(1)
    assert (indices[:, 0] == expected.indices).all()
    torch.testing.assert_close(distances[:, 0].double(), expected.values, atol=1e-4, rtol=1e-4)


def test_auto_projects_what_lies_in_few_directions():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(2000, 20, generator=generator) @ torch.randn(20, 640, generator=generator)
    assert CoarseBank(flat + 0.01 * torch.randn(2000, 640, generator=generator)).precision == "projected"
    assert CoarseBank(torch.randn(2000, 640, generator=generator)).precision != "projected"


def test_neighbor_errors():
    with pytest.raises(ValueError, match="share C"):
        nearest_neighbors(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="num_neighbors"):
        nearest_neighbors(torch.zeros(2, 3), torch.zeros(2, 3), 3)
    with pytest.raises(ValueError, match="Did you mean 'float32'"):
        nearest_neighbors(torch.zeros(2, 3), torch.zeros(2, 3), precision="float23")
    distances, _ = nearest_neighbors(torch.zeros(0, 3), torch.zeros(2, 3))
    assert distances.shape == (0, 1)


def test_johnson_lindenstrauss_dims_of_the_papers_data():
    assert johnson_lindenstrauss_dim(134 * 98 * 98, 0.9) == 347
    assert johnson_lindenstrauss_dim(282 * 98 * 98, 0.9) == 365


def test_projection_keeps_distances_on_average():
    matrix = sparse_random_projection(900, 400)
    assert float((matrix != 0).float().mean()) == pytest.approx(1 / 30, rel=0.05)
    points = torch.randn(50, 900)
    ratio = torch.pdist(points @ matrix) / torch.pdist(points)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.05)


def test_bank_keeps_the_fraction_and_only_original_rows():
    features = clustered(400, 600)
    bank = MemoryBank()
    picks = bank.fit(features, 0.1, eps=0.9)
    assert bank.rows.shape == (40, 600)
    assert torch.equal(bank.rows, features[picks])
    assert len(set(picks.tolist())) == 40


def test_a_whole_bank_is_at_distance_zero_and_more_rows_never_farther():
    features, queries = clustered(200, 16), clustered(50, 16, seed=2)
    bank = MemoryBank()
    bank.fit(features, 1.0)
    assert (bank(features) == 0).all()
    few = MemoryBank(features[:100])(queries)
    assert (bank(queries) <= few + 1e-5).all()


def test_strict_loading_resizes_and_forgets_the_old_bank():
    bank, other = MemoryBank(torch.zeros(3, 4)), MemoryBank(torch.ones(7, 4))
    assert float(bank(torch.ones(1, 4))) == 2
    bank.load_state_dict(other.state_dict())
    assert float(bank(torch.ones(1, 4))) == 0
    assert bank.rows.shape == (7, 4)


def test_bank_errors():
    with pytest.raises(RuntimeError, match=r"empty: fit it on healthy images \(train.yaml\)"):
        MemoryBank()(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="fraction"):
        MemoryBank().fit(torch.zeros(3, 2), 0)
    with pytest.raises(ValueError, match=r"\(M, C\)"):
        MemoryBank(torch.zeros(3))


def test_calibration_puts_percentiles_at_zero_and_one():
    calibration = HealthyCalibration(50, 99)
    calibration.fit(torch.linspace(0, 100, 1001))
    assert calibration(torch.tensor([0.0, 50, 74.5, 99, 1000])).tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert calibration.value_at(25) == pytest.approx(25)
    loaded = HealthyCalibration(50, 99)
    loaded.load_state_dict(calibration.state_dict())
    assert loaded.value_at(99.95) == pytest.approx(99.95)


def test_calibration_errors():
    with pytest.raises(RuntimeError, match="no calibration"):
        HealthyCalibration()(torch.zeros(1))
    with pytest.raises(ValueError, match="upper_percentile"):
        HealthyCalibration(50, 50)
    with pytest.raises(ValueError, match="non-decreasing"):
        HealthyCalibration().fit(torch.tensor([1.0, 0.0]))
