"""Networks as ONNX files: the same maps, what they carry, other sizes, and bad files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.__main__ import main
from monai_anomaly.networks import OnnxNetwork, export_onnx
from monai_anomaly.networks.nets import (
    AGMClassifier,
    ASCDiscriminator,
    ASCNet,
    AttentionMobileNet,
    DeepLabV3Plus,
    FAnoGAN,
    FAnoGANCritic,
    FAnoGANEncoder,
    FluidRegNet,
    GANomaly,
    GANomalyGenerator,
    MobileNetV3Segmenter,
    NSANet,
    ReconstructionAutoencoder,
    ReSAD,
    ReSynthDetect,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter's own calls


def _resad() -> ReSAD:
    network = ReSAD("resnet18", radius=2).load_backbone("random").eval()
    features = network.features(torch.rand(1, 3, 64, 64))
    network.memory_bank.fit(features.flatten(2)[0].T, 0.5, eps=None)
    network.calibration.fit(torch.linspace(0, 10, 11))
    return network


def _registered() -> FluidRegNet:
    network = FluidRegNet(2)
    network.set_references(torch.rand(2, 1, 32, 32))
    return network


NETWORKS = {
    "AGMClassifier": (lambda: AGMClassifier(None, 2, 3, "resnet18", attention=False, width=0.125), (4, 64, 64)),
    "ASCDiscriminator": (lambda: ASCDiscriminator(1, (32, 32), (4, 4, 8, 8, 8)), (1, 32, 32)),
    "ASCNet": (lambda: ASCNet(1, (4, 4, 8, 8, 8)), (1, 32, 32)),
    "AttentionMobileNet": (lambda: AttentionMobileNet(1, 5, width=0.25), (1, 32, 32)),
    "DeepLabV3Plus": (lambda: DeepLabV3Plus(3, 3, "resnet18", filters=8, width=0.125), (3, 64, 64)),
    "FAnoGAN": (lambda: FAnoGAN(1, 8, 2), (1, 64, 64)),
    "FAnoGANCritic": (lambda: FAnoGANCritic(1, 2), (1, 64, 64)),
    "FAnoGANEncoder": (lambda: FAnoGANEncoder(1, 8, 2), (1, 64, 64)),
    "FluidRegNet": (_registered, (1, 32, 32)),
    "GANomaly": (lambda: GANomaly(32, 8, 3, 4), (3, 32, 32)),
    "GANomalyGenerator": (lambda: GANomalyGenerator(32, 8, 3, 4), (3, 32, 32)),
    "MobileNetV3Segmenter": (lambda: MobileNetV3Segmenter(1, 5, "two_skip", width=0.25), (1, 32, 32)),
    "NSANet": (lambda: NSANet(1), (1, 50, 70)),
    "ReSAD": (_resad, (3, 64, 64)),
    "ReSynthDetect": (lambda: ReSynthDetect(3, (4, 8)), (3, 16, 32)),
    "ReconstructionAutoencoder": (lambda: ReconstructionAutoencoder(3, (4, 8)), (3, 16, 32)),
}
"""Every network that sees images; the other three see latent vectors or pairs, or are parts of these."""


def same(one: object, other: object) -> bool:
    if torch.is_tensor(one):
        return bool(torch.equal(torch.nan_to_num(one.float()), torch.nan_to_num(other.float())))
    return one == other


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_maps_and_the_network_stays_as_it_was(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    network = make().train()
    before = copy.deepcopy(network.state_dict())
    (tmp_path / "model.onnx").write_bytes(export_onnx(network, torch.rand(1, *shape), {"note": name}))
    assert network.training
    assert all(same(before[key], value) for key, value in network.state_dict().items())
    loaded = OnnxNetwork(tmp_path / "model.onnx").eval()
    assert loaded.metadata["note"] == name
    assert loaded.metadata["network"] == name
    images = torch.rand(3, *shape)
    with torch.no_grad():
        expected = network.eval()(images)
    expected = expected if torch.is_tensor(expected) else expected[0]
    torch.testing.assert_close(loaded(images), expected, atol=1e-4, rtol=1e-4)


def test_the_cuts_of_ascnet(tmp_path: Path) -> None:
    """What `CutSliceInferer` and the threshold of the masks ask the network for."""
    network = ASCNet(1, (4, 8), dark_lesions=True).eval()
    network.threshold = 0.25
    (tmp_path / "a.onnx").write_bytes(export_onnx(network, torch.rand(1, 1, 16, 32), {}))
    loaded, images = OnnxNetwork(tmp_path / "a.onnx"), torch.rand(3, 1, 16, 32)
    with torch.no_grad():
        expected = network.cuts(images)
    for found, cut in zip(loaded.cuts(images), expected, strict=True):
        torch.testing.assert_close(found, cut, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loaded.map_of(expected[2]), network.map_of(expected[2]))
    assert loaded.threshold == 0.25


class TestFile:
    @pytest.fixture(scope="class")
    @staticmethod
    def model() -> bytes:
        network = ReSynthDetect(3, (4, 8))
        network.calibration.fit(torch.linspace(0, 1, 11))
        return export_onnx(network, torch.rand(1, 3, 16, 32), {}, any_size=True)

    def test_calibration_and_metadata_of_tensors(self, model: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(model)
        loaded = OnnxNetwork(tmp_path / "a.onnx")
        assert loaded.calibration.value_at(50) == pytest.approx(0.5)
        found = loaded(MetaTensor(torch.rand(1, 3, 32, 48), affine=2 * torch.eye(4)))  # another size
        assert found.shape == (1, 1, 32, 48)
        assert torch.equal(found.affine, 2 * torch.eye(4, dtype=found.affine.dtype))

    def test_what_it_does_not_take(self, model: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(model)
        with pytest.raises(ValueError, match=r"takes images of any x 3 x any x any, got \(1, 1, 16, 32\): C differs"):
            OnnxNetwork(tmp_path / "a.onnx")(torch.rand(1, 1, 16, 32))

    @pytest.mark.parametrize("content", [b"", b"not an ONNX file", bytes(np.arange(99, dtype=np.uint8))])
    def test_a_broken_file(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"a.onnx is no network of 'python -m monai_anomaly export'"):
            OnnxNetwork(tmp_path / "a.onnx")

    def test_a_network_bound_to_one_size(self) -> None:
        with pytest.raises(RuntimeError, match=r"on images of \(1, 1, 64, 96\): it does not run .* one size"):
            export_onnx(ASCDiscriminator(1, (32, 32), (4, 4, 8, 8, 8)), torch.rand(1, 1, 32, 32), {}, any_size=True)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"none.onnx' does not exist; export a network first"):
            OnnxNetwork(tmp_path / "none.onnx")


def test_a_bundle_through_its_file(fundus_dir: Path, fundus_model: Path, run: object, tmp_path: Path) -> None:
    """``export resad``, then ``inference`` with ``onnx``: the same scores, and maps within 1e-4."""
    file = tmp_path / "model.onnx"
    assert main(["export", "resad", "inference", "smoke", "--ckpt_path", str(fundus_model), "--out", str(file)]) == 0
    told = OnnxNetwork(file).metadata
    assert told["bundle"] == "resad_fundus_anomaly_detection"
    assert told["preprocessing"]["transforms"][1]["num_channels"] == 3
    assert json.dumps(told["preprocessing"]).count("@") == json.dumps(told["preprocessing"]).count("@imagenet")
    places = {"dataset_dir": str(fundus_dir), "bundle": "resad"}
    run(["inference"], **places, ckpt_path=str(fundus_model), output_dir=str(tmp_path / "torch"))  # type: ignore[operator]
    run(["inference", "onnx"], **places, onnx_path=str(file), output_dir=str(tmp_path / "onnx"))  # type: ignore[operator]
    from PIL import Image

    maps = sorted((tmp_path / "torch").rglob("*_anomaly_map.tif"))
    assert len(maps) == 2
    for one in maps:
        other = tmp_path / "onnx" / one.relative_to(tmp_path / "torch")
        np.testing.assert_allclose(np.asarray(Image.open(other)), np.asarray(Image.open(one)), atol=1e-4, rtol=1e-4)


def test_missing_weights_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "resad", "--ckpt_path", str(tmp_path / "none.pt"), "--out", str(tmp_path / "a.onnx")]
    assert main(words) == 1
    assert "none.pt' does not exist; fit the detector first" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()
