"""Shared fixtures: small detectors, phantoms on disk, a bundle fitted once, and the real data where it is at hand."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from monai_anomaly.data.phantoms import write_phantoms
from monai_anomaly.networks.blocks import MemoryBank
from monai_anomaly.networks.nets import ReSAD
from monai_anomaly.workflows import StrictConfigWorkflow, config_files, find_bundle

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
SMALL = {"backbone": "resnet18", "radius": 2}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def detector() -> ReSAD:
    """A small ReSAD with a bank of one random image's features."""
    network = ReSAD(**SMALL).load_backbone("random").eval()
    features = network.features(torch.rand(1, 3, 64, 64))
    network.memory_bank.fit(features.flatten(2)[0].T, 0.5, eps=None)
    network.calibration.fit(torch.linspace(0, 10, 11))
    return network


@pytest.fixture
def small_bank() -> MemoryBank:
    return MemoryBank(torch.randn(8, 384))


@pytest.fixture(scope="session")
def fundus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms("fundus", tmp_path_factory.mktemp("fundus"), 4, 2, shape=(96, 128))


@pytest.fixture(scope="session")
def volume_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms("oct", tmp_path_factory.mktemp("oct"), 2, 2, shape=(64, 96, 4))


def run_bundle(configs: list[str], bundle: str = "resad", **override: object) -> StrictConfigWorkflow:
    """Run a bundle's configs, shrunk by smoke.yaml, in this process."""
    files = config_files(find_bundle(bundle), [*configs, "smoke"])
    workflow = StrictConfigWorkflow(files, override=override, workflow_type=None, logging_file=False)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.fixture(scope="session")
def run() -> object:
    return run_bundle


@pytest.fixture(scope="session")
def fundus_model(fundus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke model fitted on the fundus phantoms."""
    folder = tmp_path_factory.mktemp("fundus_model")
    run_bundle(["train"], dataset_dir=str(fundus_dir), ckpt_dir=str(folder))
    return folder / "model.pt"


@pytest.fixture(scope="session")
def volume_model(volume_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke model fitted on the OCT phantoms' slices."""
    folder = tmp_path_factory.mktemp("volume_model")
    run_bundle(["train", "data_volume"], dataset_dir=str(volume_dir), ckpt_dir=str(folder))
    return folder / "model.pt"


@pytest.fixture(scope="session")
def brain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms("brain_mri", tmp_path_factory.mktemp("brain"), 2, 2, shape=(40, 48, 32))


@pytest.fixture(scope="session")
def brain_model(brain_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke ASC-Net trained on the brain phantoms."""
    folder = tmp_path_factory.mktemp("brain_model")
    run_bundle(["train"], bundle="ascnet", dataset_dir=str(brain_dir), ckpt_dir=str(folder))
    return folder / "model.pt"


@pytest.fixture(scope="session")
def write_dicom_series() -> object:
    """A function that writes an array (slices, rows, columns), int16, as a folder of DICOM slices."""

    def write(folder: Path, array: np.ndarray, spacing: tuple[float, float, float] = (0.5, 0.5, 3.0)) -> None:
        folder.mkdir(parents=True)
        volume = SimpleITK.GetImageFromArray(array)
        volume.SetSpacing(spacing)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index in range(len(array)):
            one = volume[:, :, index]
            tags = {"0008|0060": "CT", "0020|000e": "1.2.3.4", "0020|000d": "1.2.3", "0020|0013": str(index)}
            tags["0008|0018"], tags["0020|0032"] = f"1.2.3.4.{index}", f"0\\0\\{spacing[2] * index}"
            tags["0020|0037"] = "1\\0\\0\\0\\1\\0"
            for tag, value in tags.items():
                one.SetMetaData(tag, value)
            writer.SetFileName(str(folder / f"{index}.dcm"))
            writer.Execute(one)

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a skip that says so."""
    folder = Path(os.environ.get("MONAI_ANOMALY_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set MONAI_ANOMALY_TEST_DATA")
    return folder
