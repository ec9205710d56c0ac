"""The commands as typed; one of each kind in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_anomaly.__main__ import main

BUNDLE = Path(__file__).parents[1] / "bundles" / "resad_fundus_anomaly_detection" / "configs"


def test_bundles_datasets_and_datalist(capsys, fundus_dir, tmp_path):
    assert main(["bundles"]) == 0
    assert "resad\tresad_fundus_anomaly_detection" in capsys.readouterr().out
    assert main(["datasets"]) == 0
    assert "idrid\tIndian Diabetic Retinopathy" in capsys.readouterr().out
    out = tmp_path / "list.json"
    assert main(["datalist", "auto", "--root", str(fundus_dir), "--out", str(out)]) == 0
    assert "training\tnormal\t4" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["test"]) == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", "rsad", "train"], "No bundle 'rsad'; expected a bundle's folder or one of"),
        (["run", "resad", "trian"], "has no config 'trian'"),
        (["run", "resad", "inference", "--datset_dir", "x"], "Did you mean 'dataset_dir'?"),
        (["run", "resad", "inference", "--dataset_dir"], "--dataset_dir has no value"),
        (["run", "resad", "inference", "--dataset_dir", "2023"], "dataset_dir '2023' does not exist"),
        (["run", "resad", "inference"], "dataset_dir is not given"),
        (["datalist", "idrid", "--root", "/none", "--out", "x"], "dataset_dir '/none' does not exist"),
        (["check", "/none"], "No bundle '/none'"),
    ],
)
def test_one_line_that_says_what_is_wrong(arguments, reason, capsys):
    assert main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "(--debug shows where)" in lines[0]


def test_unknown_arguments_stop():
    with pytest.raises(SystemExit):
        main(["bundles", "--verbose"])


def test_phantoms_and_check(capsys, tmp_path):
    assert main(["phantoms", "fundus", "--out", str(tmp_path), "--num-healthy", "1", "--num-test", "1"]) == 0
    assert len(list(tmp_path.rglob("*.jpg"))) == 2
    assert main(["check", "resad"]) == 0
    assert "are in order" in capsys.readouterr().out


def call(*arguments, cwd):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False
    )


@pytest.mark.slow
def test_monais_own_command_from_another_folder(fundus_dir, fundus_model, tmp_path):
    found = call(
        "monai.bundle",
        "run",
        "--config_file",
        f"['{BUNDLE / 'inference.yaml'}','{BUNDLE / 'smoke.yaml'}']",
        "--dataset_dir",
        fundus_dir,
        "--ckpt_path",
        fundus_model,
        "--output_dir",
        tmp_path / "out",
        cwd=tmp_path,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert len(list((tmp_path / "out").rglob("*_anomaly_map.tif"))) == 2


@pytest.mark.slow
def test_our_command_in_its_own_process(fundus_model, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    common = ("--dataset_dir", tmp_path / "bad", "--output_dir", tmp_path / "out2", "--ckpt_path", fundus_model)
    failed = call("monai_anomaly", "run", "resad", "inference", "--config", "smoke", *common, cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(
        "error: 1 of 1 cases failed, the others are done: x: x.png cannot be read"
    )
    assert "Traceback" not in failed.stderr
