"""Runs killed at random moments: the same command goes on, ends with the same bits, and leaves no half of a file."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_anomaly.__main__ import main
from monai_anomaly.data.folder_lock import lock_folder
from monai_anomaly.data.phantoms import write_image_labels_layout, write_phantoms, write_retouch_layout

MOMENTS = ((0.2, 0.5), (0.5, 0.9))  # of an undisturbed run's time
STAGES = {
    "resad train": "model.pt",
    "resynthdetect train_reconstruction": "reconstruction.pt",
    "resynthdetect train_localization": "model.pt",
    "ascnet train": "model.pt",
    "amnet train": "model.pt",
    "amnet train_nsa": "nsa.pt",
    "amnet train_fanogan": "fanogan.pt",
    "amnet train_fluidregnet": "fluidregnet.pt",
    "agm train_ganomaly": "ganomaly.pt",
    "agm train_classifier": "classifier.pt",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("interrupted")
    run_to_its_end(["bundles"])  # the first process waits for the libraries
    weak = write_image_labels_layout(root / "weak", 4, 8, 3, shape=(64, 96))
    return {
        "resad": write_phantoms("fundus", root / "fundus", 6, 2, shape=(96, 128)),
        "resynthdetect": write_phantoms("fundus", root / "fundus2", 4, 2, shape=(96, 128)),
        "ascnet": write_phantoms("brain_mri", root / "brain", 2, 2, shape=(40, 48, 32)),
        "amnet": write_retouch_layout(root / "oct", 3, 0, 2, shape=(64, 96, 4)),
        "agm": weak,
    }


def start(words: list[str]) -> multiprocessing.Process:
    """Start the command line in a process of its own that has its libraries loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monai_anomaly.workflows", "monai.engines", "monai.transforms", "monai.handlers"])
    process = context.Process(target=main, args=(words,))
    process.start()
    return process


def run_to_its_end(words: list[str]) -> float:
    began = time.perf_counter()
    process = start(words)
    process.join(120)
    assert process.exitcode == 0
    return time.perf_counter() - began


def killed(words: list[str], after: float) -> bool:
    """Kill -9 a run after so many seconds; False where it was over before."""
    process = start(words)
    process.join(after)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode == -signal.SIGKILL


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ".part" in path.name]


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_killed_at_random_moments_ends_the_same(data: dict[str, Path], tmp_path: Path, stage: str) -> None:
    bundle, config = stage.split()
    folder = data[bundle] / ("healthy" if config == "train_ganomaly" else "data") if bundle == "agm" else data[bundle]

    def words(ckpt_dir: Path) -> list[str]:
        if config == "train_localization":
            ckpt_dir.mkdir(exist_ok=True)
            shutil.copy(reconstruction, ckpt_dir)
        overlays = ["ablation_1_base"] if config == "train_classifier" else []
        given = ["run", bundle, config, *overlays, "smoke", "--dataset_dir", str(folder), "--ckpt_dir", str(ckpt_dir)]
        return given + (["--weights", "random"] if bundle == "resad" else [])

    reconstruction = tmp_path / "first" / "reconstruction.pt"
    if config == "train_localization":
        first = ["run", bundle, "train_reconstruction", "smoke", "--dataset_dir", str(folder)]
        run_to_its_end([*first, "--ckpt_dir", str(reconstruction.parent)])
    seconds = run_to_its_end(words(tmp_path / "whole"))
    draw = random.Random(stage)
    kills = sum(killed(words(tmp_path / "cut"), draw.uniform(*moment) * seconds) for moment in MOMENTS)
    assert kills > 0
    run_to_its_end(words(tmp_path / "cut"))
    whole, cut = (torch.load(tmp_path / name / STAGES[stage], weights_only=True) for name in ("whole", "cut"))
    assert list(whole) == list(cut)
    assert all(same(whole[key], cut[key]) for key in whole)
    assert not left_over(tmp_path / "cut")


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(torch.nan_to_num(one.float()), torch.nan_to_num(other.float())))  # type: ignore[union-attr]
    return one == other


def test_two_runs_into_one_folder(data: dict[str, Path], tmp_path: Path) -> None:
    lock_folder(tmp_path / "out")
    lock_folder(tmp_path / "out")  # the same process may
    words = ["run", "resad", "train", "smoke", "--dataset_dir", str(data["resad"]), "--weights", "random"]
    process = start([*words, "--ckpt_dir", str(tmp_path / "out")])
    process.join(60)
    assert not (tmp_path / "out" / "model.pt").exists()


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the largest process number
    (tmp_path / "deep").mkdir()
    for name, stays in (
        (f".map.{dead}.part.nii.gz", False),
        (f".map.{os.getppid()}.part.nii.gz", True),
        ("a.pt", True),
    ):
        file = tmp_path / "deep" / name
        file.write_bytes(np.zeros(3).tobytes())
        lock_folder(tmp_path / "other")
        assert file.exists()
        (tmp_path / ".run.lock").unlink(missing_ok=True)
        lock_folder(tmp_path)
        assert file.exists() == stays
