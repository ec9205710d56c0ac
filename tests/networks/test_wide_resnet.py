import hashlib
import json
from pathlib import Path

import pytest
import torch

from monai_anomaly.networks.blocks import ResNet2d, imagenet_statistics, load_resnet_weights, wide_resnet50_2
from monai_anomaly.networks.nets import ReSAD

FORMS = json.loads((Path(__file__).parent / "torchvision_state_dicts.json").read_text())
LAYOUTS = {name: form for name, form in FORMS.items() if "resnet" in name}


def test_parameter_count_of_the_paper_backbone():
    with torch.device("meta"):
        assert sum(p.numel() for p in wide_resnet50_2().parameters()) == 68_883_240


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_names_and_shapes_are_torchvisions(name):
    assert len(LAYOUTS) >= 3
    with torch.device("meta"):
        state = ResNet2d(name).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == LAYOUTS[name]
    assert list(state) == list(LAYOUTS[name])


@pytest.fixture
def weights_file(tmp_path) -> Path:
    torch.manual_seed(5)
    file = tmp_path / "weights.pth"
    torch.save(ResNet2d("resnet18").state_dict(), file)
    return file


def test_loads_a_local_file_strictly(weights_file):
    network = ResNet2d("resnet18")
    provenance = load_resnet_weights(network, "resnet18", weights_file)
    saved = torch.load(weights_file, weights_only=True)
    assert all(torch.equal(value, saved[key]) for key, value in network.state_dict().items())
    assert hashlib.sha256(weights_file.read_bytes()).hexdigest()[:8] in provenance


def test_loads_a_url_into_the_hub_cache_and_checks_its_hash(weights_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()[:8]
    named = weights_file.rename(tmp_path / f"resnet18-{digest}.pth")
    network = ResNet2d("resnet18")
    assert load_resnet_weights(network, "resnet18", named.as_uri()) == named.name
    assert (tmp_path / "hub" / "hub" / "checkpoints" / named.name).is_file()
    wrong = tmp_path / "resnet18-00000000.pth"
    wrong.write_bytes(named.read_bytes())
    with pytest.raises(RuntimeError, match="invalid hash value"):
        load_resnet_weights(network, "resnet18", wrong.as_uri())


def test_missing_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="--weights FILE"):
        load_resnet_weights(ResNet2d("resnet18"), "resnet18", (tmp_path / "none-12345678.pth").as_uri())


def test_refuses_what_does_not_fit(weights_file, tmp_path):
    with pytest.raises(ValueError, match="do not fit resnet34"):
        load_resnet_weights(ResNet2d("resnet34"), "resnet34", weights_file)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_resnet_weights(ResNet2d("resnet18"), "resnet18", tmp_path / "absent.pth")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not a torch state dict"):
        load_resnet_weights(ResNet2d("resnet18"), "resnet18", broken)
    torch.save([torch.zeros(1)], broken)
    with pytest.raises(ValueError, match="holds a list"):
        load_resnet_weights(ResNet2d("resnet18"), "resnet18", broken)


def test_random_weights_are_seeded():
    first, second, other = (ReSAD("resnet18").load_backbone("random", seed) for seed in (3, 3, 4))
    assert torch.equal(first.feature_extractor.stem.conv1.weight, second.feature_extractor.stem.conv1.weight)
    assert not torch.equal(first.feature_extractor.stem.conv1.weight, other.feature_extractor.stem.conv1.weight)
    assert first.feature_provenance == "random (seed 3), untrained"


def test_random_weights_leave_the_global_generator_alone():
    network = ResNet2d("resnet18")
    before = torch.get_rng_state()
    load_resnet_weights(network, "resnet18", "random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_folded_convolution_answers_gray_as_rgb_answers_its_repetition(weights_file):
    rgb, gray, six = (ResNet2d("resnet18", in_channels=n).eval() for n in (3, 1, 6))
    for network in (rgb, gray, six):
        load_resnet_weights(network, "resnet18", weights_file)
    x = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(gray(x), rgb(x.repeat(1, 3, 1, 1)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(six(x.repeat(1, 6, 1, 1)), gray(x), atol=1e-4, rtol=1e-4)


def test_imagenet_statistics_for_any_channels():
    assert imagenet_statistics(3)[0] == [0.485, 0.456, 0.406]
    assert imagenet_statistics(1)[0] == [pytest.approx(0.449)]
    assert len(imagenet_statistics(5)[1]) == 5


def test_errors():
    with pytest.raises(ValueError, match="Did you mean 'wide_resnet50_2'"):
        ResNet2d("wide_resnet50")
    with pytest.raises(ValueError, match="in_channels"):
        ResNet2d("resnet18", in_channels=0)


def test_untrained_features_are_told(caplog):
    one, two = ResNet2d("resnet18"), ResNet2d("resnet18")
    assert load_resnet_weights(one, "resnet18", "random", seed=3) == "random (seed 3), untrained"
    assert "The features are untrained: weights='random' (seed 3)" in caplog.text
    load_resnet_weights(two, "resnet18", "random", seed=3)
    assert torch.equal(one.conv1.weight, two.conv1.weight)
