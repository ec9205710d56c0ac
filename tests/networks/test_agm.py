"""AGM's classifier and DeepLabV3+: torchvision's weights, strides, shapes, and bad input."""

import json
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.networks.blocks import ResNet2d
from monai_anomaly.networks.nets import AGMClassifier, DeepLabV3Plus, GANomalyGenerator

FORMS = json.loads((Path(__file__).parent / "torchvision_state_dicts.json").read_text())


def torchvision_file(folder, name):
    torch.manual_seed(1)
    state = {key: torch.rand(shape) if shape else torch.tensor(0) for key, shape in FORMS[name].items()}
    assert len(state) > 100
    torch.save(state, folder / f"{name}.pth")
    return folder / f"{name}.pth", state


def generator():
    return GANomalyGenerator(64, 4, 3, 2)


def small(**options):
    settings = {"backbone": "resnet18", "width": 0.125, "output_stride": 8, **options}
    return AGMClassifier(GANomalyGenerator(64, 4, 1, 2), 3, 1, **settings)


def test_imagenets_weights_leave_the_counterparts_channels_alone(tmp_path):
    file, state = torchvision_file(tmp_path, "resnet50")
    network = AGMClassifier(generator(), attention=False)
    drawn = network.backbone.conv1.weight[:, 3:].clone()
    assert network.load_backbone(file).startswith("resnet50.pth (sha256 ")
    first = network.backbone.conv1.weight
    assert torch.equal(first[:, :3], state["conv1.weight"])
    assert torch.equal(first[:, 3:], drawn)
    assert torch.equal(network.backbone.layer4[2].conv3.weight, state["layer4.2.conv3.weight"])
    gray = DeepLabV3Plus(1)
    gray.load_backbone(file)
    torch.testing.assert_close(gray.backbone.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    assert gray.load_backbone(None) is None
    with pytest.raises(ValueError, match="do not fit resnet101"):
        DeepLabV3Plus(backbone="resnet101").load_backbone(file)


@pytest.mark.parametrize(("stride", "sizes"), [(32, (32, 16, 8, 4)), (16, (32, 16, 8, 8)), (8, (32, 16, 16, 16))])
def test_dilation_stands_in_for_strides(stride, sizes):
    with torch.device("meta"):
        found = ResNet2d("resnet50", num_classes=0, output_stride=stride).stages(torch.rand(1, 3, 128, 128))
    assert [f.shape[2] for f in found] == list(sizes)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("stride", "step"), [(16, 2), (8, 4)])
def test_a_dilated_network_answers_as_the_strided_one_in_between(name, stride, step):
    """With the same weights, every second (fourth) answer of the denser network is the coarser one's."""
    torch.manual_seed(0)
    coarse = ResNet2d(name, 1, 0, 32, width=0.25).eval()
    dense = ResNet2d(name, 1, 0, stride, width=0.25).eval()
    dense.load_state_dict(coarse.state_dict())
    image = torch.rand(1, 1, 128, 96)
    with torch.no_grad():
        found = dense.stages(image)[-1][..., ::step, ::step]
        torch.testing.assert_close(found, coarse.stages(image)[-1], atol=1e-4, rtol=1e-3)


def test_logits_of_a_segmenters_size():
    network = DeepLabV3Plus(1, 4, "resnet18", filters=8, width=0.125).eval()
    image = torch.rand(2, 1, 63, 90)
    with torch.no_grad():
        found = network(MetaTensor(image, affine=2 * torch.eye(4)))
        assert torch.equal(found.as_tensor(), network(image))
    assert found.shape == (2, 4, 63, 90)
    assert torch.equal(found.affine, 2 * torch.eye(4, dtype=found.affine.dtype))
    assert network.train()(image[:1]).shape == (1, 4, 63, 90)


@pytest.mark.parametrize("options", [{}, {"attention": False}, {"pooling": "average"}, {"head": "single"}])
def test_logits_of_a_classifier(options):
    network = small(**options).eval()
    images = torch.rand(3, 2, 64, 64)
    with torch.no_grad():
        found = network(images)
        torch.testing.assert_close(torch.cat([network(image[None]) for image in images]), found, atol=1e-5, rtol=1e-4)
    assert found.shape == (3, 3)
    assert len(network.cam_layers) == (1 if options.get("attention") is False else 2)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 1, 64, 64), r"expects \(B, 2, H, W\), got \(1, 1, 64, 64\)"),
        ((1, 2, 60, 64), "not a multiple of 8; pad to 64"),
    ],
)
def test_images_of_another_shape(shape, reason):
    with pytest.raises(ValueError, match=reason):
        small()(torch.rand(shape))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pooling": "mean"}, "pooling must be one of"),
        ({"head": "one"}, "head must be one of"),
        ({"difference": "plain"}, "difference must be one of"),
        ({"backbone": "resnet5"}, "backbone must be one of"),
        ({"output_stride": 4}, "output_stride must be one of"),
        ({"num_heads": 3}, "divisible by 6"),
    ],
)
def test_arguments(options, reason):
    with pytest.raises(ValueError, match=reason):
        small(**options)


def test_without_a_generator():
    with pytest.raises(ValueError, match="pass a generator, or no attention"):
        AGMClassifier(None)
    plain = AGMClassifier(None, 2, 1, "resnet18", attention=False, width=0.125)
    assert plain(torch.rand(2, 2, 64, 64)).shape == (2, 2)
    with pytest.raises(RuntimeError, match="no generator"):
        plain.healthy(torch.rand(1, 1, 64, 64))
