"""Thresholds from one run's healthy cases, judged on another run."""

import csv
import json

import pytest

from monai_anomaly.__main__ import main
from monai_anomaly.experiments import run_thresholds


def write_run(folder, scores, groups, weights="a", start=0, extra="", over=True):
    folder.mkdir(exist_ok=True)
    cases = [f"case{start + index}" for index in range(len(scores))]
    for name, head, values in (
        ("scores", ["case", "anomaly_score"], zip(cases, scores, strict=True)),
        ("files", ["case", "group", "image"], [(c, g, f"/data/{c}.png") for c, g in zip(cases, groups, strict=True)]),
    ):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([head, *values])
    settings = {"weights": weights, "dataset_dir": folder.name, "extra": extra}
    (folder / "run.json").write_text(json.dumps({"settings": settings, "over": over}), encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path):
    healthy = write_run(tmp_path / "healthy", range(1, 20), ["normal"] * 19)
    judged = write_run(
        tmp_path / "judged",
        [3, 18.5, 12, 18.5, 30, 40, 50],
        ["normal", "normal", "normal", "CNV", "CNV", "DME", "unlabeled"],
        start=100,
    )
    return healthy, judged


def test_rates_and_what_they_cost(runs):
    rows = run_thresholds(*runs, rates=(0.01, 0.05, 0.1))
    assert [row["threshold"] for row in rows] == [19, 18]  # nineteen cases cannot promise one in a hundred
    assert [row["promised_rate"] for row in rows] == [0.05, 0.1]
    assert [row["false_positive_rate"] for row in rows] == [0, pytest.approx(1 / 3)]
    assert [row["sensitivity"] for row in rows] == [pytest.approx(2 / 3), 1]
    assert {(row["held_out"], row["num_healthy"], row["num_sick"]) for row in rows} == {(19, 3, 3)}


def test_the_command_prints_a_table_and_leaves_one_for_the_report(runs, capsys):
    assert main(["thresholds", *map(str, runs), "--rates", "0.1"]) == 0
    assert "| 19 | 18 | 0.1 | 0.3333 | 1 | 3 | 3 | 0 |" in capsys.readouterr().out
    with (runs[1] / "healthy_thresholds.csv").open(encoding="utf-8") as handle:
        assert [row["threshold"] for row in csv.DictReader(handle)] == ["18.0"]


def test_what_failed_counts_as_such_and_nowhere_else(runs, caplog):
    write_run(runs[1], [3, "", 30], ["normal", "CNV", "CNV"], start=100)
    (runs[1] / "failures.csv").write_text("case,reason\nx,broken\n", encoding="utf-8")
    row = run_thresholds(*runs, rates=(0.01,))[0]
    assert (row["num_healthy"], row["num_sick"], row["num_failed"], row["sensitivity"]) == (1, 1, 2, 1)
    assert "19 healthy cases cannot promise less than 0.05" in caplog.text
    with pytest.raises(ValueError, match="rate must be more than 0"):
        run_thresholds(*runs, rates=(0.1, 0))


def test_without_groups_the_threshold_alone(tmp_path, runs):
    other = write_run(tmp_path / "other", [1, 2], ["", "unlabeled"], start=200)
    row = run_thresholds(runs[0], other, (0.05,))[0]
    assert row["threshold"] == 19
    assert row["sensitivity"] != row["sensitivity"]


def test_too_few_healthy_cases_promise_what_they_can(tmp_path, runs):
    few = write_run(tmp_path / "few", [5, 7], ["normal", ""])
    row = run_thresholds(few, runs[1])[0]
    assert (row["promised_rate"], row["threshold"]) == (pytest.approx(1 / 3), 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ["normal", "CNV"]}, "1 cases that are not healthy, case1"),
        ({"weights": "b"}, "not of one detector: weights differ"),
        ({"extra": "b"}, "not of one detector: extra differ"),
        ({"start": 100}, "2 cases are in both runs, case100"),
        ({"scores": [1, float("nan")]}, "score of case1 in .* is nan"),
        ({"over": False}, "is not over; start it again"),
        ({"scores": [], "groups": []}, r"has no scores\.csv with cases"),
    ],
)
def test_what_cannot_give_a_threshold(tmp_path, runs, changes, message):
    bad = write_run(tmp_path / "bad", **{"scores": [1, 2], "groups": ["normal", "normal"], **changes})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_thresholds(bad, runs[1])
    assert not (runs[1] / "healthy_thresholds.csv").exists()
