import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_anomaly.evaluation import conformal_threshold, threshold_row, threshold_rows
from monai_anomaly.handlers import EvaluationReport


def test_is_an_order_statistic():
    scores = [5.0, 1.0, 3.0, 2.0, 4.0, 9.0, 7.0, 8.0, 6.0]  # n = 9
    assert conformal_threshold(scores, 0.1) == 9
    assert conformal_threshold(scores, 0.2) == 8
    assert conformal_threshold(scores, 0.5) == 5
    assert conformal_threshold([3.0], 0.5) == 3


@pytest.mark.parametrize(("count", "rate"), [(11, 0.1), (19, 0.05), (100, 0.2)])
def test_keeps_its_promise_on_average(count, rate):
    rng = np.random.default_rng(0)
    draws = rng.lognormal(size=(4000, count + 1))  # the last of each is the case to come
    exceeded = np.mean([row[-1] > conformal_threshold(row[:-1], rate) for row in draws])
    expected = 1 - math.ceil((count + 1) * (1 - rate)) / (count + 1)
    assert exceeded <= rate + 0.01
    assert exceeded == pytest.approx(expected, abs=0.015)


def test_too_few_cases_say_how_many_it_takes():
    with pytest.raises(ValueError, match=r"4 healthy cases cannot promise .* 0.1; hold out 9 or more .* more than 0.2"):
        conformal_threshold(np.arange(4), 0.1)
    assert conformal_threshold(np.arange(9), 0.1) == 8
    with pytest.raises(ValueError, match="must be finite"):
        conformal_threshold([1.0, float("nan")], 0.5)
    with pytest.raises(ValueError, match="false_positive_rate must be more than 0"):
        conformal_threshold([1.0], 0)


def test_what_it_comes_to():
    row = threshold_row(np.arange(9), 0.1, [7, 8, 9, 10, 11], [False, False, False, True, True])
    assert row["threshold"] == 8
    assert row["false_positive_rate"] == pytest.approx(1 / 3)
    assert row["sensitivity"] == 1
    assert (row["num_healthy"], row["num_sick"]) == (3, 2)
    failed = threshold_row(np.arange(9), 0.1, [math.nan, 9, math.nan, 10], [False, False, True, True])
    assert (failed["false_positive_rate"], failed["sensitivity"], failed["num_failed"]) == (1, 1, 2)
    assert math.isnan(threshold_row(np.arange(9), 0.1, [1], [True])["false_positive_rate"])


def test_rows_for_what_can_be_promised():
    rows = threshold_rows(np.arange(19.0), [0.01, 0.05, 0.1], [17.5, 18.5], [False, True])
    assert [(row["promised_rate"], row["threshold"]) for row in rows] == [(0.05, 18), (0.1, 17)]
    assert [(row["false_positive_rate"], row["sensitivity"]) for row in rows] == [(0, 1), (1, 1)]
    (row,) = threshold_rows([3.0], [0.05, 0.1], [1.0, 4.0], [False, True])
    assert (row["held_out"], row["promised_rate"], row["threshold"]) == (1, 0.5, 3)
    assert threshold_rows([], [0.1], [1.0], [True]) == []


def test_a_healthy_case_that_fails_is_left_out(tmp_path, caplog):
    def inferer(image, network):
        if image.max() > 5:
            message = "too bright"
            raise ValueError(message)
        return {"anomaly_score": image.amax((1, 2, 3))}

    batches = [{"case": [str(value)], "image": torch.full((1, 1, 4, 4), float(value))} for value in (1, 9, 3)]
    batches.append({"case": "gone", "failure": "no such file"})
    report = EvaluationReport(tmp_path, "m", {"paper": {}}, torch.nn.Identity(), healthy=batches)
    engine = SimpleNamespace(state=SimpleNamespace(device="cpu"), inferer=inferer)
    assert report._healthy_scores(engine) == [1, 3]
    assert "healthy case 9 is not in the threshold: ValueError: too bright" in caplog.text
    assert "healthy case gone is not in the threshold: no such file" in caplog.text
