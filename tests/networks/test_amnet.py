"""MobileNetV3 segmenters: torchvision's weights, what guidance does at first, shapes, and bad input."""

import json
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.networks.blocks import fuse_batch_norm
from monai_anomaly.networks.blocks.lr_aspp import TwoSkipDecoder
from monai_anomaly.networks.nets import AttentionMobileNet, MobileNetV3Segmenter

FORMS = json.loads((Path(__file__).parent / "torchvision_state_dicts.json").read_text())


def torchvision_state(name):
    torch.manual_seed(1)
    state = {key: torch.rand(shape) if shape else torch.tensor(0) for key, shape in FORMS[name].items()}
    assert len(state) > 300
    return state


def test_torchvisions_segmenter_loads_strictly():
    network = MobileNetV3Segmenter()
    state = torchvision_state("lraspp_mobilenet_v3_large_5")
    network.load_state_dict(state)
    assert torch.equal(network.state_dict()["classifier.cbr.0.weight"], state["classifier.cbr.0.weight"])


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "lraspp_mobilenet_v3_large_5"])
@pytest.mark.parametrize(("in_channels", "guidance"), [(3, "none"), (1, "none"), (1, "input")])
def test_imagenets_backbone_loads(tmp_path, name, in_channels, guidance):
    state = torchvision_state(name)
    torch.save(state, tmp_path / "weights.pth")
    network = MobileNetV3Segmenter(in_channels, head="two_skip", guidance=guidance)
    assert network.load_backbone(tmp_path / "weights.pth").startswith("weights.pth (sha256 ")
    prefix = "features" if name == "mobilenet_v3_large" else "backbone"
    stem = network.backbone[0][0].weight
    expected = state[f"{prefix}.0.0.weight"]
    torch.testing.assert_close(stem[:, :in_channels], expected if in_channels == 3 else expected.sum(1, keepdim=True))
    assert not stem[:, in_channels:].any()
    assert torch.equal(network.backbone[16][0].weight, state[f"{prefix}.16.0.weight"])


def test_weights_that_do_not_fit(tmp_path):
    torch.save({"features.0.0.weight": torch.rand(16, 3, 3, 3)}, tmp_path / "few.pth")
    with pytest.raises(ValueError, match="do not fit MobileNetV3-Large"):
        MobileNetV3Segmenter().load_backbone(tmp_path / "few.pth")
    with pytest.raises(FileNotFoundError, match="weights .* does not exist"):
        MobileNetV3Segmenter().load_backbone(tmp_path / "none.pth")
    assert MobileNetV3Segmenter().load_backbone(None) is None


def test_strides_of_the_features():
    with torch.device("meta"):
        network = MobileNetV3Segmenter()
        found = network.backbone.features(torch.rand(1, 3, 496, 512))
    shapes = [tuple(f.shape[1:]) for f in found]
    assert shapes == [(16, 248, 256), (24, 124, 128), (40, 62, 64), (960, 31, 32)]


def test_direct_guidance_starts_as_the_baseline():
    torch.manual_seed(0)
    baseline = MobileNetV3Segmenter(1, head="two_skip", width=0.25).eval()
    torch.manual_seed(0)
    guided = MobileNetV3Segmenter(1, head="two_skip", guidance="input", width=0.25).eval()
    image = torch.rand(2, 1, 48, 64)
    with torch.no_grad():
        assert torch.equal(guided(torch.cat((image, torch.rand(2, 1, 48, 64)), 1)), baseline(image))
    guided(torch.cat((image, image), 1)).sum().backward()
    assert guided.backbone[0][0].weight.grad[:, 1].any()  # and it can learn


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fused", [False, True])
def test_the_decoder_is_its_layers_one_after_the_other(layout, fused):
    torch.manual_seed(0)
    decoder = TwoSkipDecoder(4, 6, 20, filters=16).eval()
    for module in decoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
    features = [torch.rand(2, *shape, requires_grad=True) for shape in ((4, 24, 28), (6, 11, 14), (20, 3, 4))]
    used = (fuse_batch_norm(decoder) if fused else decoder)(*(f.to(memory_format=layout) for f in features))

    def enlarged(x, like):
        return torch.nn.functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

    fine, coarse, deep = features
    expected = decoder.up1(decoder.cbr(deep) * decoder.scale(deep))
    expected = decoder.up2(torch.cat((enlarged(expected, coarse), decoder.coarse(coarse)), 1))
    expected = decoder.up3(torch.cat((enlarged(expected, fine), decoder.fine(fine)), 1))
    torch.testing.assert_close(used, expected)
    weights = torch.rand_like(expected)
    wanted = torch.autograd.grad((weights * expected).sum(), features, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad((weights * used).sum(), features, retain_graph=True), wanted)
    if not fused:
        layers = [decoder.fine.weight, decoder.up3[0].weight, decoder.up2[1].weight]
        wanted = torch.autograd.grad((weights * expected).sum(), layers)
        torch.testing.assert_close(torch.autograd.grad((weights * used).sum(), layers), wanted)


class TestAttention:
    def test_a_map_of_ones_is_no_gate(self):
        torch.manual_seed(0)
        free = AttentionMobileNet(guidance="none", width=0.25).eval()
        mapped = AttentionMobileNet(guidance="map", width=0.25).eval()
        mapped.load_state_dict(free.state_dict())
        image = torch.rand(2, 1, 48, 64)
        with torch.no_grad():
            expected = free(image)
            torch.testing.assert_close(mapped(torch.cat((image, torch.ones_like(image)), 1)), expected)
            none = mapped(torch.cat((image, torch.zeros_like(image)), 1))
            assert not torch.allclose(none, expected)
            free.decoder.fine.weight.zero_()  # a map of zeros is a decoder without skip connections
            free.decoder.coarse.weight.zero_()
            torch.testing.assert_close(none, free(image))

    def test_the_image_joins_before_the_last_layer(self):
        torch.manual_seed(0)
        network = AttentionMobileNet(guidance="none", width=0.25).eval()
        image = torch.rand(1, 1, 48, 64)
        with torch.no_grad():
            fine, coarse, _, deep = network.backbone.features(image)
            features = network.decoder(fine, coarse, deep)
            enlarged = torch.nn.functional.interpolate(features, (48, 64), mode="bilinear", align_corners=False)
            weight = torch.cat((network.features_skip.weight, network.image_skip.weight), 1)
            joined = torch.nn.functional.conv2d(torch.cat((enlarged, image), 1), weight)
            torch.testing.assert_close(network(image), network.last(joined), atol=1e-5, rtol=1e-4)

    def test_gates_are_in_between(self):
        network = AttentionMobileNet(width=0.25).eval()
        with torch.no_grad():
            found = network.outputs(torch.rand(2, 1, 48, 64))
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            "logits": (2, 5, 48, 64),
            "gate_4": (2, 1, 12, 16),
            "gate_2": (2, 1, 24, 32),
        }
        for name in ("gate_4", "gate_2"):
            assert 0 < found[name].min() <= found[name].max() < 1


NETWORKS = {
    "torchvision": lambda: MobileNetV3Segmenter(1, width=0.25),
    "two_skip": lambda: MobileNetV3Segmenter(1, head="two_skip", width=0.25),
    "output": lambda: MobileNetV3Segmenter(1, head="two_skip", guidance="output", width=0.25),
    "input": lambda: MobileNetV3Segmenter(1, head="two_skip", guidance="input", width=0.25),
    "gate": lambda: AttentionMobileNet(width=0.25),
    "map": lambda: AttentionMobileNet(guidance="map", width=0.25),
}


@pytest.mark.parametrize("name", NETWORKS)
class TestEverySegmenter:
    def test_logits_of_the_inputs_size(self, name):
        network = NETWORKS[name]().eval()
        image = torch.rand(2, network.in_channels + network.num_maps, 47, 70)
        with torch.no_grad():
            found = network(MetaTensor(image, affine=2 * torch.eye(4)))
            assert torch.equal(found.as_tensor(), network(image))
        assert found.shape == (2, 5, 47, 70)
        assert torch.equal(found.affine, 2 * torch.eye(4, dtype=found.affine.dtype))
        assert network.train()(image).shape == (2, 5, 47, 70)

    def test_a_wrong_number_of_channels(self, name):
        network = NETWORKS[name]()
        with pytest.raises(ValueError, match=r"expects \(B, \d, H, W\), got \(1, 5, 32, 32\)"):
            network(torch.rand(1, 5, 32, 32))

    def test_export(self, name):
        network = NETWORKS[name]().eval()
        image = torch.rand(1, network.in_channels + network.num_maps, 32, 48)
        exported = torch.export.export(network, (image,), strict=False)
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(image), network(image))


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_networks_say_the_same(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    image = torch.rand(4, network.in_channels + network.num_maps, 48, 64)
    network(image)  # statistics that are not 0 and 1
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = fuse_batch_norm(network.eval())
    count = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in n.modules()) for n in (network, fused)]
    assert count[1] <= 2 < 40 < count[0]
    with torch.no_grad():
        torch.testing.assert_close(fused(image), network(image), atol=1e-4, rtol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_wrong_options():
    for make, said in (
        (lambda: MobileNetV3Segmenter(head="twoskip"), "Did you mean 'two_skip'"),
        (lambda: MobileNetV3Segmenter(guidance="gate"), "guidance must be one of"),
        (lambda: AttentionMobileNet(guidance="input"), "guidance must be one of"),
        (lambda: AttentionMobileNet(num_classes=1), "num_classes must be"),
        (lambda: AttentionMobileNet(width=0), "width must be"),
    ):
        with pytest.raises(ValueError, match=said):
            make()
