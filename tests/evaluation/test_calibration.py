"""Promised and observed shares of pixels against counting them."""

import math

import numpy as np
import pytest
import torch

from monai_anomaly.evaluation import MapEvaluation, Protocol, write_report
from monai_anomaly.evaluation.calibration import PERCENTILES, calibration_rows
from monai_anomaly.evaluation.map_evaluation import Case
from monai_anomaly.metrics.curves import Curve
from monai_anomaly.metrics.score_distribution import LabeledScores, ScoreDistribution
from monai_anomaly.networks.blocks import HealthyCalibration


def curve_of(scores, labels):
    seen = LabeledScores()
    seen.update(torch.as_tensor(scores), torch.as_tensor(labels))
    return Curve.of(seen)


def test_shares_are_those_of_a_loop(rng):
    levels = np.linspace(0, 2, 1001)  # healthy pixels were uniform in 0 to 2
    scores = np.round(rng.uniform(0, 2, 4000), 1)  # with ties, some of them on levels
    labels = rng.uniform(size=4000) < np.clip(scores - 1.5, 0, 1)
    rows = calibration_rows(curve_of(scores, labels), levels)
    assert [row["healthy_percentile"] for row in rows] == list(PERCENTILES)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        value = 2 * row["healthy_percentile"] / 100
        assert row["value"] == pytest.approx(value)
        assert row["promised_rate"] == pytest.approx(1 - row["healthy_percentile"] / 100, abs=0.0011)
        assert row["healthy_above"] == pytest.approx(np.mean(scores[~labels] > row["value"]))
        assert row["lesion_above"] == pytest.approx(np.mean(scores[labels] > row["value"]))
        there = (scores > row["value"]) & (scores <= (math.inf if following is None else following["value"]))
        if there.any():
            assert row["lesion_share"] == pytest.approx(labels[there].mean())
        else:
            assert math.isnan(row["lesion_share"])


def test_pixels_like_the_healthy_ones_keep_the_promise(rng):
    levels = np.quantile(rng.normal(size=200_000), np.linspace(0, 1, 1001))
    rows = calibration_rows(curve_of(rng.normal(size=200_000), np.zeros(200_000, bool)), levels)
    for row in rows:
        assert row["healthy_above"] == pytest.approx(row["promised_rate"], abs=0.002)
        assert math.isnan(row["lesion_above"])


def test_values_that_many_pixels_share_keep_it_too(rng):
    values = np.where(rng.uniform(size=100_000) < 0.93, 0.0, rng.uniform(size=100_000)).astype(np.float32)
    seen = ScoreDistribution(4096)
    seen.add(values)
    calibration = HealthyCalibration()
    calibration.fit_distribution(*seen.entries())
    np.testing.assert_allclose(calibration.levels, np.quantile(values, np.linspace(0, 1, 1001)), atol=0.03)
    assert float(calibration.levels[925]) == 0
    rows = calibration_rows(curve_of(values, np.zeros(len(values), bool)), calibration.levels.numpy())
    for row in rows:
        assert row["healthy_above"] == pytest.approx(row["promised_rate"], abs=0.003)
    assert rows[0]["promised_rate"] == pytest.approx(0.07, abs=0.003)


def test_the_report_draws_it(tmp_path, rng):
    image = torch.from_numpy(rng.uniform(0, 255, (3, 32, 32)))
    label = torch.zeros(1, 32, 32)
    label[0, 4:8, 4:9] = 1
    evaluation = MapEvaluation(Protocol("all"), "a")
    empty = torch.zeros_like(label)
    found = label + torch.from_numpy(rng.uniform(size=(1, 32, 32)))
    evaluation.add(Case("x", "abnormal", image, found, 1.0, label, empty))
    text = write_report(tmp_path, [evaluation], [], healthy_levels=np.linspace(0, 1, 1001)).read_text(encoding="utf-8")
    assert "![calibration](all_calibration.png)" in text
    assert (tmp_path / "all_calibration.png").stat().st_size > 10_000
    assert (tmp_path / "all_calibration.csv").read_text(encoding="utf-8").count("\n") == 1 + len(PERCENTILES)
    assert "alibration" not in write_report(tmp_path, [evaluation], []).read_text(encoding="utf-8")
