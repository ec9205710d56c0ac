"""A full disk, a folder nobody may write to, an input that goes away: one clear line each, and nothing lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from monai_anomaly.__main__ import main

LIMIT = 40_000  # bytes of a file, where a full disk is played


@contextmanager
def small_files(limit: int = LIMIT) -> Iterator[None]:
    """Let the system refuse to write more than so many bytes to a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def words(command: str, data: Path, **places: object) -> list[str]:
    bundle, *configs = command.split()
    given = [word for name, value in places.items() for word in (f"--{name}", str(value))]
    return ["run", bundle, *configs, "smoke", "--dataset_dir", str(data), *given]


def test_a_full_disk_ends_a_fit_and_keeps_the_old_weights(
    fundus_dir: Path, fundus_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(fundus_model, tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    with small_files():
        assert main(words("resad train", fundus_dir, ckpt_dir=tmp_path, weights="random")) == 1
    assert (tmp_path / "model.pt").read_bytes() == before
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]
    told = capsys.readouterr().err
    assert "model.pt could not be written" in told or "features_000000.pt could not be written" in told
    assert "GB are free" in told
    assert main(words("resad train", fundus_dir, ckpt_dir=tmp_path, weights="random")) == 0


def test_a_full_disk_ends_an_inference_that_goes_on_later(
    fundus_dir: Path, fundus_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words("resad inference", fundus_dir, ckpt_path=fundus_model, output_dir=tmp_path)
    with small_files(10_000):
        assert main(command) == 1
    assert "could not be written: File too large" in capsys.readouterr().err
    assert main(command) == 0
    assert len(list(tmp_path.rglob("*_anomaly_map.tif"))) == 2
    assert not (tmp_path / "failures.csv").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_a_folder_nobody_may_write_to(
    fundus_dir: Path, fundus_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As another user, where the test runs as root, whom no permission stops."""
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o555)
    target = Path("/proc/self/out") if os.geteuid() == 0 else folder  # read-only, whoever asks
    assert main(words("resad inference", fundus_dir, ckpt_path=fundus_model, output_dir=target)) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "output_dir" in last


def test_an_input_that_goes_away(
    fundus_dir: Path, fundus_model: Path, run: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of cases was made; one file is gone when its turn comes."""
    data = tmp_path / "data"
    shutil.copytree(fundus_dir, data)
    images = sorted((data / "test" / "images").iterdir())
    from monai_anomaly.data import CaseDataset

    read = CaseDataset.__getitem__

    def slow(self: CaseDataset, index: int) -> object:
        if index == 1:
            images[1].unlink(missing_ok=True)
        return read(self, index)

    monkeypatch.setattr(CaseDataset, "__getitem__", slow)
    with pytest.raises(RuntimeError) as caught:
        run(["inference"], dataset_dir=str(data), ckpt_path=str(fundus_model), output_dir=str(tmp_path / "out"))  # type: ignore[operator]
    reason = str(caught.value.__cause__ or caught.value)
    assert "1 of 2 cases failed" in reason
    assert images[1].stem in reason
    assert len(list((tmp_path / "out").rglob("*_anomaly_map.tif"))) == 1


def test_the_same_command_twice_gives_the_same_bits(fundus_dir: Path, fundus_model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        assert main(words("resad train", fundus_dir, ckpt_dir=folder, weights="random")) == 0
        assert main(words("resad inference", fundus_dir, ckpt_path=folder / "model.pt", output_dir=folder / "out")) == 0
    weights = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0] if torch.is_tensor(weights[0][key]))
    for file in sorted((tmp_path / "one" / "out").rglob("*")):
        if file.suffix in (".tif", ".csv"):
            assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()
