"""Two processes on one CPU give what one does: fits, maps, tables and reports bit by bit, trainings up to rounding."""

from __future__ import annotations

import csv
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.engines import SupervisedTrainer, Trainer
from torch import nn

from monai_anomaly import ranks
from monai_anomaly.__main__ import main
from monai_anomaly.data import SharedBatchesLoader
from monai_anomaly.data.phantoms import write_image_labels_layout, write_phantoms, write_retouch_layout
from monai_anomaly.experiments.runs import warm_processes
from monai_anomaly.handlers import AverageGradients
from monai_anomaly.networks.blocks.shared_batch_norm import share_batch_norm

CLASSIFIER = "agm train_classifier ablation_1_base"
FIRST = {  # what is trained once, and used by the others
    "resad": ("resad train", "fundus"),
    "ascnet": ("ascnet train", "brain"),
    "amnet": ("amnet train", "oct"),
    "agm": (CLASSIFIER, "weak"),
}
RUNS = {  # overlay, weights of, folder knob
    "resad train": ("multi_gpu_train", None, "ckpt_dir"),
    "resad inference": ("multi_gpu_inference", "resad", "output_dir"),
    "resad train evaluate": ("multi_gpu_evaluate", "resad", "output_dir"),
    "ascnet train evaluate": ("multi_gpu_evaluate", "ascnet", "output_dir"),
    "amnet inference": ("multi_gpu_inference", "amnet", "output_dir"),
    "amnet train evaluate": ("multi_gpu_evaluate", "amnet", "output_dir"),
    "agm pseudo_labels ablation_1_base": ("multi_gpu_pseudo_labels", "agm", "output_dir"),
}
TRAININGS = {
    "resynthdetect train_reconstruction": "fundus",
    "agm train_ganomaly": "healthy",
}


def run(words: list[str]) -> None:
    torch.set_num_threads(1)
    sys.exit(main(words))


def in_processes(count: int, target: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Run a function in processes as torchrun starts them, libraries loaded; return their exit codes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = []
    for index in range(count):
        place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
        place |= {"MASTER_PORT": port}
        processes.append(
            warm_processes().Process(target=_placed, args=({k: str(v) for k, v in place.items()}, target, arguments))
        )
        processes[-1].start()
    for process in processes:
        process.join(120)
        if process.exitcode != 0:  # the others wait for it, as torchrun would not let them
            for other in processes:
                other.kill()
    return [process.exitcode for process in processes]


def _placed(place: dict[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(place)
    target(*arguments)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("processes")
    weak = write_image_labels_layout(root / "weak", 4, 8, 3, shape=(64, 96))
    oct_cases = write_retouch_layout(root / "oct", 4, 0, 2, shape=(64, 96, 4))
    folders: dict[str, Path] = {
        "fundus": write_phantoms("fundus", root / "fundus", 6, 3, shape=(96, 128)),
        "brain": write_phantoms("brain_mri", root / "brain", 2, 3, shape=(40, 48, 32)),
        "oct": oct_cases,
        "weak": weak / "data",
        "healthy": weak / "healthy",
    }
    for name, (config, source) in FIRST.items():
        words = ["run", *config.split(), "smoke", "--dataset_dir", str(folders[source]), "--ckpt_dir", str(root / name)]
        assert in_processes(1, run, words) == [0]
        folders[f"{name} weights"] = root / name
    return folders


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("run.lock"))
    return {path.relative_to(folder).as_posix(): bits(path) for path in files}


def bits(path: Path) -> bytes:
    if path.suffix != ".pt":  # a torch file has its temporary name in it
        return path.read_bytes()
    state = torch.load(path, weights_only=True)
    return b"".join(name.encode() + value.numpy().tobytes() for name, value in state.items() if torch.is_tensor(value))


@pytest.mark.parametrize("config", RUNS)
def test_two_processes_write_what_one_does(data: dict[str, Path], tmp_path: Path, config: str) -> None:
    overlay, weights, knob = RUNS[config]
    bundle, *names = config.split()
    source = data["weak" if bundle == "agm" else FIRST[weights or bundle][1]]
    words = ["run", bundle, *names, "smoke", "--dataset_dir", str(source)]
    if weights is not None:
        alone = "train" not in names
        file = next(data[f"{weights} weights"].glob("[mc]*[lr].pt"))
        words += ["--ckpt_path", str(file)] if alone else ["--ckpt_dir", str(file.parent)]
    if bundle == "amnet":
        words += ["--section", "training"]
    assert in_processes(1, run, [*words, f"--{knob}", str(tmp_path / "one")]) == [0]
    words.insert(words.index("smoke") + 1, overlay)
    assert in_processes(2, run, [*words, f"--{knob}", str(tmp_path / "two")]) == [0, 0]
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one
    assert sorted(one) == sorted(two)
    other = [name for name in one if one[name] != two[name]]
    if names[0] == "pseudo_labels":  # its tables have seconds, and means whose terms are added in another order
        assert set(other) <= {"sweep.csv", "overlap.csv", "report.md"}
        values = [re.findall(rb"-?\d+\.\d+(?:e-\d+)?", found["sweep.csv"]) for found in (one, two)]
        np.testing.assert_allclose(*(np.array(some, dtype=float) for some in values), rtol=1e-9)
        return
    assert other == []


@pytest.mark.parametrize("config", TRAININGS)
def test_two_processes_train_as_one_with_the_whole_batch(data: dict[str, Path], tmp_path: Path, config: str) -> None:
    losses = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        words = ["run", *config.split(), "smoke", "multi_gpu_train", "--dataset_dir", str(data[TRAININGS[config]])]
        assert in_processes(count, run, [*words, "--ckpt_dir", str(folder)]) == [0] * count
        with next(folder.glob("*losses.csv")).open(encoding="utf-8") as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=3e-3)  # Adam's first steps are signs of gradients near 0


@pytest.mark.parametrize("config", ["amnet train_fanogan multi_gpu_train_fanogan", "ascnet train multi_gpu_train"])
def test_trainings_that_draw_noise_run_in_two_processes(data: dict[str, Path], tmp_path: Path, config: str) -> None:
    bundle, name, overlay = config.split()
    source = data["oct" if bundle == "amnet" else "brain"]
    words = ["run", bundle, name, "smoke", overlay, "--dataset_dir", str(source), "--ckpt_dir", str(tmp_path)]
    assert in_processes(2, run, words) == [0, 0]
    state = torch.load(next(tmp_path.glob("[fm]*n.pt" if bundle == "amnet" else "model.pt")), weights_only=True)
    assert all(bool(value.isfinite().all()) for value in state.values() if isinstance(value, torch.Tensor))


def test_a_bad_case_is_told_once_and_done_by_one_process_later(data: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "images"
    shutil.copytree(data["fundus"], source)
    bad = sorted((source / "test" / "images").iterdir())[-1]
    whole = bad.read_bytes()
    bad.write_bytes(whole[:100])
    words = ["run", "resad", "inference", "smoke", "--dataset_dir", str(source), "--output_dir", str(tmp_path / "out")]
    words += ["--ckpt_path", str(data["resad weights"] / "model.pt")]
    shared = [*words[:4], "multi_gpu_inference", *words[4:]]
    assert in_processes(2, run, shared)[0] == 1
    with (tmp_path / "out" / "failures.csv").open(encoding="utf-8") as file:
        assert [row["case"] for row in csv.DictReader(file)] == [f"test/images/{bad.stem}"]
    first = sorted((tmp_path / "out").rglob("*.tif"))
    assert len(first) == 2
    stamps = [path.stat().st_mtime_ns for path in first]
    bad.write_bytes(whole)
    assert in_processes(1, run, words) == [0]
    assert [path.stat().st_mtime_ns for path in first] == stamps
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(first) + 1
    assert not list((tmp_path / "out").glob(".done*")) + list((tmp_path / "out").glob(".scores*"))


def test_torchrun(data: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command += ["monai_anomaly", "run", "resad", "inference", "smoke"]
    words = ["--dataset_dir", str(data["fundus"]), "--output_dir", str(tmp_path)]
    words += ["--ckpt_path", str(data["resad weights"] / "model.pt")]
    done = subprocess.run([*command, "multi_gpu_inference", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores.csv").is_file()


def test_an_overlay_for_several_processes_says_how_to_start_them(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "resad", "train", "smoke", "multi_gpu_train", "--dataset_dir", str(data["fundus"])]
    assert main([*words, "--ckpt_dir", str(tmp_path)]) == 1
    assert "start it with torchrun --nproc_per_node N" in capsys.readouterr().err


def test_torchrun_without_the_overlay(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranks.check_joined()  # a cluster's own, not torchrun's
    monkeypatch.setenv("LOCAL_RANK", "0")
    words = ["run", "resad", "train", "smoke", "--dataset_dir", str(data["fundus"]), "--ckpt_dir", str(tmp_path)]
    assert main(words) == 1
    message = "torchrun started 2 processes, and each would do the whole work; lay multi_gpu_*.yaml over"
    assert message in capsys.readouterr().err


class TestShares:
    """Who does what."""

    @staticmethod
    def as_one_of(monkeypatch: pytest.MonkeyPatch, index: int, count: int) -> None:
        monkeypatch.setattr(ranks, "index", lambda: index)
        monkeypatch.setattr(ranks, "count", lambda: count)

    def test_shares_are_neighbors_and_make_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for size, count in ((7, 3), (2, 2), (1, 4), (12, 5)):
            shares: list[int] = []
            for index in range(count):
                self.as_one_of(monkeypatch, index, count)
                own = ranks.part(range(size))
                assert size // count <= len(own) <= -(-size // count)
                shares += own
            assert shares == list(range(size))

    @pytest.mark.parametrize("drop_last", [False, True])
    def test_processes_share_the_batches_of_one(self, monkeypatch: pytest.MonkeyPatch, drop_last: bool) -> None:
        def batches(index: int, count: int, epoch: int) -> list[list[int]]:
            self.as_one_of(monkeypatch, index, count)
            loader = SharedBatchesLoader(torch.arange(10), 4, shuffle=True, drop_last=drop_last, seed=3)
            loader.share.epoch = epoch
            assert len(loader) == len(list(loader))
            return [batch.tolist() for batch in loader]

        whole = batches(0, 1, 1)
        parts = [batches(index, 2, 1) for index in range(2)]
        assert [a + b for a, b in zip(*parts, strict=True)] == whole
        assert batches(0, 1, 2) != whole
        if not drop_last:
            assert sorted(item for batch in whole for item in batch) == list(range(10))

    def test_batches_that_do_not_part_evenly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.as_one_of(monkeypatch, 0, 3)
        with pytest.raises(ValueError, match=r"batch_size 4 is shared by 3 processes; set a multiple .*--batch_size 3"):
            SharedBatchesLoader(torch.arange(10), 4)
        loader = SharedBatchesLoader(torch.arange(4), 3)
        assert [batch.tolist() for batch in loader] == [[0], [3]]  # the last batch, of one item, is everybody's


def normalize(folder: Path) -> None:
    """Take a step's gradients in each process, of its half of the batch."""
    torch.set_num_threads(1)
    ranks.join()
    network, images = small_network()
    network = network.double()
    share_batch_norm(network, torch.device("cpu"))
    own = ranks.part(images)
    (network(own).tanh().square().mean()).backward()
    ranks.average_gradients(list(network.parameters()))
    found = {name: value.grad for name, value in network.named_parameters()} | dict(network.named_buffers())
    torch.save(found, folder / f"{ranks.index()}.pt")
    torch.distributed.destroy_process_group()


def small_network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return layers, torch.randn(6, 2, 8, 9, dtype=torch.float64)


def test_gradients_and_batch_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    assert in_processes(2, normalize, tmp_path) == [0, 0]
    network, images = small_network()
    network = network.double()
    network(images).tanh().square().mean().backward()
    expected = {name: value.grad for name, value in network.named_parameters()} | dict(network.named_buffers())
    for index in range(2):
        found = torch.load(tmp_path / f"{index}.pt", weights_only=True)
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


class OwnTrainer(Trainer):
    """A trainer without MONAI's events around the backward pass, as those of GANs are."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, loader: Any) -> None:
        self.network, self.optimizer = network, optimizer
        super().__init__(torch.device("cpu"), 2, loader, handlers=[AverageGradients()], decollate=False)

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.optimizer.zero_grad()
        loss = self.network(batchdata["image"]).tanh().square().mean()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}


def train(folder: Path, kind: str) -> None:
    """Train for two epochs of two batches; each process begins with weights of its own, the first one's count."""
    torch.set_num_threads(1)
    ranks.join()
    network, images = small_network()
    network = network.double()
    if not ranks.is_first():
        with torch.no_grad():
            network[0].weight.zero_()
    data = [{"image": image, "label": image.mean().reshape(1, 1, 1)} for image in torch.cat((images, images[:2] + 1))]
    loader = SharedBatchesLoader(data, 4, shuffle=True, seed=5)
    optimizer = torch.optim.SGD(network.parameters(), 0.5, momentum=0.9)
    if kind == "own":
        OwnTrainer(network, optimizer, loader).run()
    else:
        SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=2,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=lambda found, label: (found.tanh() - label).square().mean(),
            decollate=False,
            train_handlers=[AverageGradients()],
        ).run()
    torch.save(network.state_dict(), folder / f"{kind}_{ranks.count()}_{ranks.index()}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["supervised", "own"])
def test_a_training_ends_with_the_weights_of_one_process(tmp_path: Path, kind: str) -> None:
    for count in (1, 2):
        assert in_processes(count, train, tmp_path, kind) == [0] * count
    one, *both = (torch.load(tmp_path / f"{kind}_{name}.pt", weights_only=True) for name in ("1_0", "2_0", "2_1"))
    start = small_network()[0].double().state_dict()
    assert not torch.allclose(one["0.weight"], start["0.weight"], atol=1e-3)
    for found in both:
        for name, value in one.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-11)
