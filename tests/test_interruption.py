"""Runs killed at random moments: the same command goes on, ends with the same bits, and leaves no half of a file."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_anomaly.__main__ import main
from monai_anomaly.data.folder_lock import lock_folder
from monai_anomaly.data.phantoms import write_image_labels_layout, write_phantoms, write_retouch_layout
from monai_anomaly.experiments.runs import warm_processes

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
SLOW = ("amnet train_fanogan", "amnet train_fluidregnet")


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
    process = warm_processes().Process(target=main, args=(words,))
    process.start()
    return process


def run_to_its_end(words: list[str]) -> float:
    began = time.perf_counter()
    process = start(words)
    process.join(120)
    assert process.exitcode == 0
    return time.perf_counter() - began


def kill_at_random(words: list[str], seconds: float, times: int, seed: object) -> int:
    """Kill -9 a run so many times, start after start; return how often that was.

    A run that was over before is the measure for the next: machines are not equally fast all the time.
    """
    draw, kills = random.Random(str(seed)), 0
    for _ in range(4 * times):
        began = time.perf_counter()
        process = start(words)
        process.join(draw.uniform(0.1, 0.9) * seconds)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        else:
            seconds = time.perf_counter() - began
        if kills == times:
            break
    return kills


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
    times = 1 if stage in SLOW else 2
    assert kill_at_random(words(tmp_path / "cut"), seconds, times, stage) == times
    run_to_its_end(words(tmp_path / "cut"))
    whole, cut = (torch.load(tmp_path / name / STAGES[stage], weights_only=True) for name in ("whole", "cut"))
    assert list(whole) == list(cut)
    assert all(same(whole[key], cut[key]) for key in whole)
    assert not left_over(tmp_path / "cut")


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(torch.nan_to_num(one.float()), torch.nan_to_num(other.float())))  # type: ignore[union-attr]
    return one == other


def hold(folder: Path, ready: Event, over: Event, end: Event) -> None:
    """Hold a folder until told; a worker of this process outlives it, as a loader's would."""
    lock_folder(folder)
    if os.fork() == 0:
        end.wait(60)
    else:
        ready.set()
        over.wait(60)
    os._exit(0)


def test_two_runs_into_one_folder(data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is refused; once the first is over it is not, though a worker of the first still lives."""
    out = tmp_path / "out"
    words = ["run", "resad", "train", "smoke", "--dataset_dir", str(data["resad"]), "--weights", "random"]
    words += ["--ckpt_dir", str(out)]
    ready, over, end = (warm_processes().Event() for _ in range(3))
    holder = warm_processes().Process(target=hold, args=(out, ready, over, end))
    holder.start()
    assert ready.wait(60)
    assert main(words) == 1
    assert f"Another run (process {holder.pid}) writes to" in capsys.readouterr().err
    assert not (out / "model.pt").exists()
    over.set()
    holder.join()
    lock_folder(out)
    lock_folder(out)  # the same process may
    lock_folder(out / "below")
    end.set()


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the largest process number
    (tmp_path / "deep").mkdir()
    files = {f".a.{dead}.part.nii.gz": False, f".a.{os.getppid()}.part.nii.gz": True, "a.pt": True}
    for name in files:
        (tmp_path / "deep" / name).write_bytes(np.zeros(3).tobytes())
    lock_folder(tmp_path / "other")
    assert all((tmp_path / "deep" / name).exists() for name in files)
    lock_folder(tmp_path)
    assert {name: (tmp_path / "deep" / name).exists() for name in files} == files


@pytest.fixture(scope="module")
def fitted(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    words = ["run", "resad", "train", "smoke", "--dataset_dir", str(data["resad"]), "--weights", "random"]
    run_to_its_end([*words, "--ckpt_dir", str(folder)])
    return folder / "model.pt"


def contents(folder: Path) -> dict[str, bytes]:
    kept = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".run.lock", "run.json"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def test_inference_killed_at_random_moments_ends_the_same(fitted: Path, tmp_path: Path) -> None:
    images = write_phantoms("fundus", tmp_path / "many", 1, 10, shape=(96, 128), seed=50)
    words = ["run", "resad", "inference", "smoke", "--dataset_dir", str(images), "--ckpt_path", str(fitted)]
    seconds = run_to_its_end([*words, "--output_dir", str(tmp_path / "whole")])
    again = [*words, "--output_dir", str(tmp_path / "cut")]
    assert kill_at_random(again, seconds, 4, 0) == 4
    run_to_its_end(again)
    whole, cut = contents(tmp_path / "whole"), contents(tmp_path / "cut")
    assert sorted(whole) == sorted(cut)
    tables = [name for name in whole if name.endswith((".csv", ".tif"))]
    assert len(tables) == 12  # ten maps, scores and files
    assert all(whole[name] == cut[name] for name in tables)


class TestJournal:
    """What the same command does again, and what it does not."""

    @pytest.fixture
    def infer(self, run: object, data: dict[str, Path], fitted: Path, tmp_path: Path) -> object:
        def go(**more: object) -> int:
            settings = {"dataset_dir": str(data["resad"]), "output_dir": str(tmp_path), "ckpt_path": str(fitted)}
            try:
                workflow = run(["inference"], **{**settings, **more})  # type: ignore[operator]
            except RuntimeError:
                return -1
            return len(workflow.parser.get_parsed_content("dataset").done)

        return go

    def test_what_is_over_is_done_anew(self, infer: object, tmp_path: Path) -> None:
        assert infer() == 0  # type: ignore[operator]
        assert not (tmp_path / ".done.0.jsonl").exists()
        assert infer() == 0  # type: ignore[operator]
        assert len((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()) == 3

    def interrupt(self, tmp_path: Path) -> list[str]:
        """Make it look as if the run had been killed after its first case."""
        rows = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / "scores.csv").write_text("".join(rows[:2]) + "test/imag", encoding="utf-8")
        journal = tmp_path / "run.json"
        journal.write_text(journal.read_text(encoding="utf-8").replace('"over": true', '"over": false'), "utf-8")
        case = rows[1].split(",")[0]
        (tmp_path / ".done.0.jsonl").write_text(f'"{case}"\n"half', encoding="utf-8")
        return rows

    def test_an_interrupted_run_goes_on(self, infer: object, tmp_path: Path) -> None:
        infer()  # type: ignore[operator]
        rows = self.interrupt(tmp_path)
        assert infer() == 1  # type: ignore[operator]
        assert (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines(keepends=True) == rows

    @pytest.mark.parametrize("change", [{"resume": "False"}, {"image_size": "[96, 96]"}, {"calibrated": "True"}])
    def test_other_settings_start_anew(self, infer: object, tmp_path: Path, change: dict[str, str]) -> None:
        infer()  # type: ignore[operator]
        self.interrupt(tmp_path)
        assert infer(**change) == 0  # type: ignore[operator]

    def test_cases_that_failed_are_tried_again(self, infer: object, data: dict[str, Path], tmp_path: Path) -> None:
        images = tmp_path / "data"
        shutil.copytree(data["resad"] / "test" / "images", images / "test" / "images")
        (images / "train" / "images").mkdir(parents=True)
        bad = sorted((images / "test" / "images").iterdir())[0]
        whole = bad.read_bytes()
        bad.write_bytes(whole[:100])
        out = tmp_path / "out"
        assert infer(dataset_dir=str(images), output_dir=str(out)) == -1  # type: ignore[operator]
        bad.write_bytes(whole)
        assert infer(dataset_dir=str(images), output_dir=str(out)) == 1  # type: ignore[operator]
        assert not (out / "failures.csv").exists()
        assert len((out / "scores.csv").read_text(encoding="utf-8").splitlines()) == 3
