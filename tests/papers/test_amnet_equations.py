"""Kahrs et al. 2025: the gate, the losses, the schedule and the detection rate against loops; counts of parameters."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from monai_anomaly.handlers import WeightAveraging
from monai_anomaly.losses import GuidedSegmentationLoss
from monai_anomaly.metrics import LesionDetectionRateMetric, compare_masks, count_touched
from monai_anomaly.networks.blocks import AttentionGate, MobileNetV3
from monai_anomaly.networks.nets import MobileNetV3Segmenter


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: MobileNetV3(3), 2_971_952),
        (MobileNetV3Segmenter, 3_218_818),
        (lambda: MobileNetV3Segmenter(num_classes=21), 3_221_538),
        (lambda: MobileNetV3Segmenter(guidance="output"), 3_218_988),
        (lambda: MobileNetV3Segmenter(guidance="input"), 3_218_962),
        (lambda: MobileNetV3Segmenter(1), 3_218_530),
        (lambda: MobileNetV3Segmenter(1, guidance="input"), 3_218_674),
        (lambda: MobileNetV3Segmenter(head="two_skip"), 3_282_741),
    ],
)
def test_parameters(make, expected):
    with torch.device("meta"):
        assert count(make()) == expected


def test_the_gate_is_its_formula():
    gate = AttentionGate(4, 6).eval()
    x, g = torch.rand(2, 4, 6, 8), torch.rand(2, 6, 3, 4)
    with torch.no_grad():
        weighed, alpha = gate(x, g)
        psi, b_psi = gate.psi.weight[0, :, 0, 0], gate.psi.bias[0]
        coarse = torch.empty(2, 1, 3, 4)
        for b in range(2):
            for i in range(3):
                for j in range(4):
                    block = x[b, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                    theta = (gate.theta.weight * block).sum((1, 2, 3))
                    phi = gate.phi.weight[:, :, 0, 0] @ g[b, :, i, j] + gate.phi.bias
                    coarse[b, 0, i, j] = torch.sigmoid(psi @ torch.relu(theta + phi) + b_psi)
        expected = F.interpolate(coarse, (6, 8), mode="bilinear", align_corners=False)
        torch.testing.assert_close(alpha, expected)
        torch.testing.assert_close(weighed, gate.w(expected * x))
    assert alpha.shape == (2, 1, 6, 8)
    assert 0 < alpha.min() <= alpha.max() < 1
    gate.psi.weight.data.zero_()
    gate.psi.bias.data.zero_()
    assert torch.equal(gate.attention(x, g), torch.full((2, 1, 6, 8), 0.5))


def naive_fluid_loss(logits, label):
    """Cross-entropy, and 1 - Dice averaged over the classes, batch-wise."""
    p = torch.softmax(logits, 1)
    b, k, h, w = p.shape
    cross, inter, total = 0.0, [0.0] * k, [0.0] * k
    for n in range(b):
        for i in range(h):
            for j in range(w):
                cross -= math.log(p[n, label[n, 0, i, j], i, j])
                for c in range(k):
                    true = float(label[n, 0, i, j] == c)
                    inter[c] += p[n, c, i, j].item() * true
                    total[c] += p[n, c, i, j].item() + true
    dice = sum(1 - (2 * i + 1e-5) / (t + 1e-5) for i, t in zip(inter, total, strict=True)) / k
    return cross / (b * h * w) + dice


class TestLoss:
    def setup_method(self):
        torch.manual_seed(0)
        self.logits, self.label = torch.randn(2, 5, 4, 6), torch.randint(0, 5, (2, 1, 4, 6))
        self.target = {"label": self.label, "anomaly_map": torch.rand(2, 1, 4, 6)}

    def test_fluid(self):
        loss = GuidedSegmentationLoss()({"logits": self.logits}, self.target)
        assert loss.item() == pytest.approx(naive_fluid_loss(self.logits, self.label), rel=1e-5)

    def test_nothing_is_lost_for_perfect_logits(self):
        perfect = 50 * F.one_hot(self.label[:, 0], 5).movedim(-1, 1).float()
        assert GuidedSegmentationLoss()({"logits": perfect}, self.target).item() == pytest.approx(0, abs=1e-5)

    def test_indirect(self):
        anomaly = torch.randn(2, 1, 4, 6)
        terms = GuidedSegmentationLoss().terms({"logits": self.logits, "anomaly_logits": anomaly}, self.target)
        p, m = torch.sigmoid(anomaly), self.target["anomaly_map"]
        expected = -(m * p.log() + (1 - m) * (1 - p).log()).mean()
        assert terms["ano"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert set(terms) == {"fluid", "ano"}

    def test_guided_gates(self):
        gates = {"gate_4": torch.rand(2, 1, 2, 3), "gate_2": torch.rand(2, 1, 4, 6)}
        outputs = {"logits": self.logits, **gates}
        terms = GuidedSegmentationLoss(guide_gates=True).terms(outputs, self.target)
        m = self.target["anomaly_map"]
        assert terms["AG2"].item() == pytest.approx(((gates["gate_2"] - m) ** 2).mean().item(), rel=1e-5)
        ones = {**self.target, "anomaly_map": torch.ones_like(m)}
        found = GuidedSegmentationLoss(guide_gates=True).terms(outputs, ones)["AG1"].item()
        assert found == pytest.approx(((gates["gate_4"] - 1) ** 2).mean().item(), rel=1e-5)
        assert set(GuidedSegmentationLoss().terms(outputs, self.target)) == {"fluid"}  # AMNet's gates learn alone

    def test_what_is_missing_is_said(self):
        with pytest.raises(ValueError, match="wants anomaly maps and the data have none"):
            GuidedSegmentationLoss()(
                {"logits": self.logits, "anomaly_logits": self.logits[:, :1]}, {"label": self.label}
            )
        with pytest.raises(ValueError, match="guide_gates needs a network with gates, got logits"):
            GuidedSegmentationLoss(guide_gates=True)({"logits": self.logits}, self.target)
        with pytest.raises(ValueError, match="anomaly_weight must be"):
            GuidedSegmentationLoss(anomaly_weight=-1)


def naive_components(mask):
    """Components of 8 neighbors by flooding, as sets of pixels."""
    left, found = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        queue, part = [left.pop()], set()
        while queue:
            i, j = queue.pop()
            part.add((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            queue += near
        found.append(part)
    return found


def test_detection_against_flooding(rng):
    for _ in range(20):
        true, predicted = rng.random((12, 16)) < 0.15, rng.random((12, 16)) < 0.1
        parts = naive_components(true)
        touched = sum(any(predicted[pixel] for pixel in part) for part in parts)
        assert count_touched(true, predicted) == (touched, len(parts))
        wrong = sum(not any(true[pixel] for pixel in part) for part in naive_components(predicted))
        found = compare_masks(predicted, true)
        assert (found["found"], found["lesions"], found["false_positives"]) == (touched, len(parts), wrong)
        both = 2 * (true & predicted).sum() / (true.sum() + predicted.sum())
        assert found["dice"] == pytest.approx(both)


class TestDetectionRate:
    @staticmethod
    def one_hot(labels, num_classes=3):
        return F.one_hot(torch.as_tensor(labels), num_classes).movedim(-1, 0)[None]

    def test_corners_join_and_gaps_part(self):
        joined, apart = torch.zeros(2, 6, 6, dtype=torch.long)
        joined[1, 1] = joined[2, 2] = 1
        apart[1, 1] = apart[4, 4] = 1
        predicted = torch.zeros(6, 6, dtype=torch.long)
        predicted[1, 1] = 1
        metric = LesionDetectionRateMetric()
        metric(self.one_hot(predicted), self.one_hot(joined))
        assert metric.aggregate().item() == 1
        metric.reset()
        metric(self.one_hot(predicted), self.one_hot(apart))
        assert metric.aggregate().item() == 0.5
        metric(self.one_hot(predicted), self.one_hot(joined))  # pooled over images: 2 of 3
        assert metric.aggregate().item() == pytest.approx(2 / 3)

    def test_the_class_has_to_be_right(self):
        true, predicted = torch.zeros(2, 5, 5, dtype=torch.long)
        true[1:3, 1:3], predicted[1:3, 1:3] = 1, 2
        for any_class, rate in ((False, 0), (True, 1)):
            metric = LesionDetectionRateMetric(any_class=any_class)
            metric(self.one_hot(predicted), self.one_hot(true))
            assert metric.aggregate().item() == rate
        by_class = LesionDetectionRateMetric(pooled=False)
        by_class(self.one_hot(true), self.one_hot(true))
        assert by_class.aggregate().tolist()[0] == 1
        assert math.isnan(by_class.aggregate().tolist()[1])

    def test_volumes_join_over_26_neighbors(self):
        true = torch.zeros(4, 4, 4, dtype=torch.long)
        true[1, 1, 1] = true[2, 2, 2] = 1
        predicted = torch.zeros_like(true)
        predicted[2, 2, 2] = 1
        metric = LesionDetectionRateMetric()
        metric(self.one_hot(predicted), self.one_hot(true))
        assert metric.aggregate().item() == 1

    def test_nothing_there_is_not_a_number(self):
        empty = self.one_hot(torch.zeros(4, 4, dtype=torch.long))
        metric = LesionDetectionRateMetric()
        metric(empty, empty)
        assert math.isnan(metric.aggregate().item())

    def test_bad_masks(self):
        with pytest.raises(ValueError, match=r"Expected two one-hot masks \(B, K, H, W\[, D\]\), got"):
            LesionDetectionRateMetric()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 5))
        with pytest.raises(ValueError, match=r"Masks must have one shape, got \(2, 2\) and \(2, 3\)"):
            count_touched(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


class TestSchedule:
    @staticmethod
    def epochs(start_epoch, number=40):
        """The learning rate of each epoch, and the network after it."""
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
        optimizer = torch.optim.Adam(network.parameters(), 1e-4)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)
        batches = [{"image": torch.randn(4, 1, 5, 5) + 3} for _ in range(3)]
        averaging = WeightAveraging(network, optimizer, scheduler, start_epoch, 0.01, batches)
        engine = SimpleNamespace(state=SimpleNamespace(epoch=0, device=torch.device("cpu")))
        rates, weights = [], []
        for epoch in range(1, number + 1):
            engine.state.epoch = epoch
            rates.append(optimizer.param_groups[0]["lr"])
            for batch in batches:
                optimizer.zero_grad()
                network(batch["image"]).square().mean().backward()
                optimizer.step()
            weights.append(network[0].weight.item())
            averaging(engine)
        averaging._finish(engine)
        return rates, weights, network, batches

    def test_decay_as_published(self):
        rates, weights, network, _ = self.epochs(None)
        expected = [1e-4] * 10 + [9e-5] * 10 + [8.1e-5] * 10 + [7.29e-5] * 10
        np.testing.assert_allclose(rates, expected, rtol=1e-6)
        assert network[0].weight.item() == weights[-1]

    def test_averaging(self):
        rates, weights, network, batches = self.epochs(32)
        np.testing.assert_allclose(rates[:32], [1e-4] * 10 + [9e-5] * 10 + [8.1e-5] * 10 + [7.29e-5] * 2, rtol=1e-6)
        assert all(a < b for a, b in pairwise(rates[31:]))  # on its way to 0.01
        assert rates[-1] < 0.01
        assert network[0].weight.item() == pytest.approx(np.mean(weights[32:]), rel=1e-5)
        with torch.no_grad():
            seen = torch.cat([network[0](batch["image"]) for batch in batches])
        assert network[1].running_mean.item() == pytest.approx(seen.mean().item(), rel=1e-4)  # learned anew

    def test_state_comes_back(self, tmp_path):
        network = torch.nn.Linear(2, 1)
        optimizer = torch.optim.Adam(network.parameters(), 1e-4)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)
        averaging = WeightAveraging(network, optimizer, scheduler, 1, 0.01, [])
        averaging.average.update_parameters(network)
        optimizer.step()
        averaging.scheduler.step()
        torch.save(averaging.state_dict(), tmp_path / "state.pt")
        other = WeightAveraging(network, optimizer, scheduler, 1, 0.01, [])
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert int(other.average.n_averaged) == 1
        assert other.scheduler.last_epoch == averaging.scheduler.last_epoch
        with pytest.raises(ValueError, match="start_epoch must be"):
            WeightAveraging(network, optimizer, scheduler, 0, 0.01, [])
