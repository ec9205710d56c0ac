"""The comparison of detectors: its table, what it costs, going on, and bad input."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_anomaly.__main__ import main
from monai_anomaly.data.phantoms import write_phantoms
from monai_anomaly.experiments import run_compare
from monai_anomaly.experiments.compare import _Job
from monai_anomaly.experiments.detectors import DETECTORS, MODALITIES
from monai_anomaly.workflows import config_files, find_bundle


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, fundus_dir: Path) -> Path:
    out = tmp_path_factory.mktemp("compare")
    words = ["--dataset_dir", str(fundus_dir), "--modalities", "fundus", "--detectors", "resad,patchcore", "--small"]
    assert main(["compare", "--out", str(out), *words, "--config", "smoke"]) == 0
    return out


class TestTable:
    def test_has_detectors_and_trivial_rows(self, compared: Path) -> None:
        with (compared / "detectors.csv").open(newline="", encoding="utf-8") as handle:
            rows = {row["method"]: row for row in csv.DictReader(handle)}
        assert list(rows)[:2] == ["ReSAD", "PatchCore"]
        assert {"random", "larger top-hat"} <= set(rows)
        assert rows["ReSAD"]["kind"] == "detector"
        assert rows["random"]["kind"] == "trivial"
        assert rows["ReSAD"]["pixel_aupr"] != rows["PatchCore"]["pixel_aupr"]
        assert all(float(rows["ReSAD"][key]) > 0 for key in ("seconds_per_image", "train_seconds", "train_gb"))
        assert rows["random"]["seconds_per_image"] == ""
        assert int(rows["ReSAD"]["parameters"]) > 1_000_000
        assert (compared / "fundus" / "curves.png").is_file()
        text = (compared / "report.md").read_text(encoding="utf-8")
        assert "| ReSAD |" in text
        assert "*larger top-hat*" in text

    def test_a_second_start_does_nothing_again(self, compared: Path, fundus_dir: Path) -> None:
        weights = compared / "runs" / "fundus" / "resad" / "weights" / "model.pt"
        before = weights.stat().st_mtime_ns
        report = run_compare(compared, fundus_dir, ["fundus"], ["resad"], configs=["smoke"], small=True)
        assert weights.stat().st_mtime_ns == before
        assert "PatchCore" not in report.read_text(encoding="utf-8")

    def test_other_settings_want_another_folder(self, compared: Path, fundus_dir: Path) -> None:
        with pytest.raises(ValueError, match="other settings: small was True, is False"):
            run_compare(compared, fundus_dir, ["fundus"], ["resad"], configs=["smoke"])

    def test_one_that_fails_and_a_bad_case_do_not_take_the_others(self, fundus_dir: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        shutil.copytree(fundus_dir, data)
        images = write_phantoms("fundus", tmp_path / "more", 1, 2, shape=(96, 128), seed=7) / "test" / "images"
        (data / "test" / "images" / "broken.jpg").write_bytes(next(images.iterdir()).read_bytes()[:200])
        broken, names = {"patchcore.weights": "no_such_file.pth"}, ["resad", "patchcore"]
        with pytest.raises(RuntimeError, match=r"2 detectors failed|PatchCore on fundus") as told:
            run_compare(tmp_path / "out", data, ["fundus"], names, 0, ["smoke"], overrides=broken, small=True)
        assert "ReSAD on fundus, some cases: " in str(told.value)
        text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
        assert "| ReSAD |" in text
        assert "- Failed: ReSAD on fundus, some cases:" in text
        assert "- Failed: PatchCore on fundus:" in text


def test_a_training_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from monai_anomaly.experiments.runs import end_with_parent, warm_processes\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, mp_context=warm_processes(), initializer=end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 300).result()\n"
    )
    file = tmp_path / "parent.py"
    file.write_text(script, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not is_running(worker):
            break
        time.sleep(0.1)
    assert not is_running(worker)
    parent.stdout.close()


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"


class TestRecipes:
    @pytest.mark.parametrize("name", DETECTORS)
    def test_name_configs_that_exist_and_settings_they_have(self, name: str) -> None:
        from monai.bundle import ConfigParser

        detector = DETECTORS[name]
        assert set(detector.modalities) <= set(MODALITIES)
        for configs in (*detector.train, detector.maps):
            volume = [detector.volume] if detector.volume else []
            parser = ConfigParser()
            parser.read_config(config_files(find_bundle(detector.bundle), [*configs, *volume]))
            for key in {**detector.small.get("", {}), **detector.small.get(configs[0], {})}:
                assert key in parser or configs == detector.maps, (configs, key)
        assert all(key in parser for key in detector.small.get("maps", {}))
        stages = _Job(name, detector.modalities[0], Path("data"), Path("out"), {"configs": [], "seed": 0}).stages()
        assert stages[-1][2]["calibrated"] is False
        assert set(detector.small) <= {"", "maps", *(configs[0] for configs in detector.train)}


class TestBadInput:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"modalities": ["xray"]}, "modality must be one of"),
            ({"detectors": ["resda"]}, "Did you mean 'resad'"),
            ({"modalities": ["fundus"], "detectors": ["nsa"]}, "None of nsa is for fundus; choose of resad"),
            ({"overrides": {"seed": "3"}}, "The comparison sets seed itself"),
            ({"overrides": {"nsa.max_epoch": "3"}}, "did you mean|Did you mean"),
            ({"overrides": {"nsaa.max_epochs": "3"}}, "detector of --nsaa.max_epochs must be one of"),
            ({"modalities": ["oct", "fundus"], "dataset_dir": "data"}, "A data set shows one modality"),
        ],
    )
    def test_has_one_clear_line_before_the_first_run(
        self, changed: dict[str, object], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=message):
            run_compare(tmp_path / "out", **changed)
        assert not (tmp_path / "out" / "runs").exists()

    def test_a_missing_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["compare", "--out", str(tmp_path / "out"), "--dataset_dir", str(tmp_path / "none")]) == 1
        assert "dataset_dir" in capsys.readouterr().err


def test_settings_are_kept(compared: Path) -> None:
    told = json.loads((compared / "experiment.json").read_text(encoding="utf-8"))
    assert told["small"] is True
    assert told["configs"] == ["smoke"]
