import resource

import numpy as np
import pytest
import torch
from monai.metrics import ROCAUCMetric
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_anomaly.metrics import (
    BalancedAccuracyMetric,
    BestDiceMetric,
    Curve,
    PerRegionOverlapMetric,
    PixelAveragePrecisionMetric,
    PixelROCAUCMetric,
    ScoreDistribution,
)

METRICS = (
    PixelROCAUCMetric,
    PixelAveragePrecisionMetric,
    BestDiceMetric,
    BalancedAccuracyMetric,
    PerRegionOverlapMetric,
)


def stream(metric, scores, labels, step=100_003):
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        metric(torch.from_numpy(scores[part].copy())[None, None], torch.from_numpy(labels[part].copy())[None, None])
    return metric.aggregate()


SHAPES = {
    "continuous": lambda z: z.astype(np.float32),
    "tied": lambda z: np.round(z * 3).astype(np.float32),
    "8-bit": lambda z: np.clip(z * 40 + 100, 0, 255).astype(np.uint8).astype(np.float32),
    "skewed": lambda z: np.exp(z * 8).astype(np.float32),
    "narrow": lambda z: 1e4 + z * 1e-3,
    "huge": lambda z: (z * 1e30).astype(np.float32),
    "probabilities": lambda z: (1 / (1 + np.exp(-6 * z))).astype(np.float32),
}


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("prevalence", [0.5, 0.01, 0.0005])
def test_within_1e_4_of_scikit_learn(shape, prevalence, rng):
    labels = rng.random(400_000) < prevalence
    scores = SHAPES[shape](rng.normal(size=len(labels)) + 1.5 * labels)
    assert stream(PixelROCAUCMetric(), scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    expected = average_precision_score(labels, scores)
    assert stream(PixelAveragePrecisionMetric(), scores, labels) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_merging_keeps_the_accuracy(rng):
    labels = rng.random(12_000_000) < 0.02
    scores = (rng.normal(size=len(labels)) + labels).astype(np.float32)
    scores = scores + np.linspace(0, 3, len(labels), dtype=np.float32)  # drifts
    coarse = PixelROCAUCMetric()
    assert stream(coarse, scores, labels, 1_000_000) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    expected = average_precision_score(labels, scores)
    assert stream(PixelAveragePrecisionMetric(), scores, labels, 1_000_000) == pytest.approx(expected, abs=1e-4)


def test_merge_of_many_parts_is_accurate(rng):
    distribution = ScoreDistribution(resolution=256)
    values = rng.normal(size=300_000)
    for part in np.split(values, 100):
        distribution.add(part)
        distribution._merge()
    scores, weights = distribution.entries()
    assert weights.sum() == len(values)
    assert len(scores) < 6_000
    for level in (-2, 0, 2, 3.5):
        assert weights[scores >= level].sum() == pytest.approx((values >= level).sum(), rel=0.05, abs=3)


def test_auc_is_invariant_under_monotone_maps(rng):
    labels = rng.random(5_000) < 0.2
    scores = rng.normal(size=5_000) + labels
    values = {stream(PixelROCAUCMetric(), f(scores), labels) for f in (lambda s: s, lambda s: 3 * s - 100, np.tanh)}
    assert max(values) - min(values) < 1e-9


def test_image_level_equals_monai(rng):
    scores, labels = torch.rand(40, 1), (torch.rand(40, 1) < 0.5).double()
    ours, monais = PixelROCAUCMetric(), ROCAUCMetric()
    ours(scores, labels)
    monais(scores, labels)
    assert ours.aggregate() == pytest.approx(monais.aggregate())


def test_hand_made_map():
    scores = torch.tensor([[[[0.9, 0.8, 0.3], [0.2, 0.1, 0.0]]]])
    labels = torch.tensor([[[[1, 0, 1], [0, 0, 0]]]])
    found = {}
    for kind in METRICS:
        metric = kind()
        metric(scores, labels)
        found[kind] = metric
    assert found[PixelROCAUCMetric].aggregate() == pytest.approx(7 / 8)
    assert found[PixelAveragePrecisionMetric].aggregate() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found[BestDiceMetric].aggregate() == pytest.approx(2 * 2 / (2 + 3))
    assert found[BestDiceMetric].threshold == pytest.approx(0.3)
    assert found[BalancedAccuracyMetric].aggregate() == pytest.approx((1 + 3 / 4) / 2)


def naive_overlap(scores, labels, limit):
    """Mean overlap of the two lesions over the false positive rate, threshold by threshold."""
    lesions = [labels == 1, labels == 2]
    points = [(0.0, 0.0)]
    for threshold in np.unique(scores)[::-1]:
        found = scores >= threshold
        points.append((found[labels == 0].mean(), np.mean([found[lesion].mean() for lesion in lesions])))
    x, y = np.array(points).T
    grid = np.linspace(0, limit, 20001)
    return np.trapezoid(np.interp(grid, x, y), grid) / limit


def test_per_region_overlap_against_a_loop(rng):
    labels = np.zeros((30, 30), int)
    labels[2:4, 2:4], labels[10:25, 10:25] = 1, 2
    scores = rng.random((30, 30)) + 0.5 * (labels == 1) + 0.2 * (labels == 2)
    metric = PerRegionOverlapMetric()
    metric(torch.from_numpy(scores)[None, None], torch.from_numpy(labels > 0)[None, None])
    assert metric.aggregate() == pytest.approx(naive_overlap(scores, labels, 0.3), abs=2e-3)


def test_per_region_overlap_joins_corners_and_uses_the_mask():
    label = torch.zeros(1, 1, 4, 4)
    label[0, 0, 0, 0] = label[0, 0, 1, 1] = 1  # one region by its corner
    score = label.clone()
    score[0, 0, 3, 3] = 2
    metric = PerRegionOverlapMetric(1.0)
    metric(score, label, torch.ones_like(label))
    assert metric.scores.positives.total == 1
    masked = PerRegionOverlapMetric(1.0)
    mask = torch.ones_like(label)
    mask[0, 0, 3, 3] = 0
    masked(score, label, mask)
    assert masked.aggregate() == 1
    assert metric.aggregate() < 1


@pytest.mark.parametrize("kind", METRICS)
def test_stated_answers(kind):
    metric = kind()
    assert np.isnan(metric.aggregate())
    metric(torch.rand(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    assert np.isnan(metric.aggregate())  # no positives
    metric.reset()
    metric(torch.ones(1, 1, 2, 2), torch.tensor([[[[1, 0], [0, 0]]]]))
    assert np.isfinite(metric.aggregate())
    metric.reset()
    perfect = torch.zeros(2, 1, 6, 6, 6)
    perfect[:, :, 2:4, 2:4, 2:4] = 1
    metric(perfect, perfect)
    assert metric.aggregate() == pytest.approx(1)


@pytest.mark.parametrize("kind", METRICS)
def test_errors(kind):
    metric = kind()
    with pytest.raises(ValueError, match=r"expects \(B, 1, ...\)"):
        metric(torch.rand(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="one shape"):
        metric(torch.rand(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match="0 or 1"):
        metric(torch.rand(1, 1, 4, 4), torch.full((1, 1, 4, 4), 255))
    with pytest.raises(ValueError, match="NaN"):
        metric(torch.full((1, 1, 4, 4), float("nan")), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="resolution"):
        ScoreDistribution(2)
    with pytest.raises(ValueError, match="max_false_positive_rate"):
        PerRegionOverlapMetric(0)


def test_scores_are_never_squashed():
    metric = PixelROCAUCMetric()
    metric(torch.tensor([[[-1e9, -5.0, 7.0, 1e9]]]), torch.tensor([[[0, 1, 0, 1]]]))
    assert metric.aggregate() == pytest.approx(0.75)
    assert Curve.of(metric.scores).thresholds.tolist() == [1e9, 7.0, -5.0, -1e9]


def test_memory_does_not_grow_with_the_pixels():
    metric = PixelAveragePrecisionMetric()
    scores, labels = torch.rand(1, 1, 1 << 20), torch.rand(1, 1, 1 << 20) < 0.01
    metric(scores, labels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(30):
        metric(scores, labels)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 150
    assert sum(map(len, metric.scores.negatives._values)) <= 1 << 19
