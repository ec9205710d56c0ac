"""The sides of a residual, and its smoothing, alone and in the networks that have them."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_anomaly.networks.blocks import residual, smoothed
from monai_anomaly.networks.nets import AGMClassifier, FAnoGAN, GANomaly, GANomalyGenerator


def test_sides_add_up():
    x, healthy = torch.tensor([[0.2, 0.9, 0.5]]), torch.tensor([[0.6, 0.4, 0.5]])
    torch.testing.assert_close(residual(x, healthy, "darker"), torch.tensor([[0.4, 0.0, 0.0]]))
    torch.testing.assert_close(residual(x, healthy, "brighter"), torch.tensor([[0.0, 0.5, 0.0]]))
    torch.testing.assert_close(residual(x, healthy), torch.tensor([[0.4, 0.5, 0.0]]))


def test_smoothing_is_scipys_gaussian():
    maps = torch.rand(2, 1, 40, 30)
    expected = [ndimage.gaussian_filter(one, 2.0, mode="nearest") for one in maps[:, 0].numpy()]
    torch.testing.assert_close(smoothed(maps, 2.0)[:, 0], torch.from_numpy(np.stack(expected)), atol=5e-3, rtol=0)
    torch.testing.assert_close(smoothed(torch.full((1, 1, 5, 4), 0.3), 3.0), torch.full((1, 1, 5, 4), 0.3))
    assert smoothed(maps, 0.0) is maps


@pytest.mark.parametrize("make", [lambda **k: GANomaly(64, 8, 1, 4, **k), lambda **k: FAnoGAN(1, 8, 2, **k)])
def test_detectors_maps_have_one_side_and_are_smoothed(make):
    torch.manual_seed(0)
    plain = make().eval()
    images = torch.rand(2, 1, 64, 64)
    maps = {}
    with torch.no_grad():
        for name, options in {"darker": {}, "brighter": {}, "smooth": {"side": "both", "sigma": 1.5}}.items():
            other = make(**{"side": name, **options}).eval()
            other.load_state_dict(plain.state_dict())  # neither is a weight
            maps[name] = other(images)
        both = plain(images)
        healthy = plain.healthy(images) if isinstance(plain, GANomaly) else None
    torch.testing.assert_close(maps["darker"] + maps["brighter"], both)
    assert 0 < maps["darker"].mean() < both.mean()
    if healthy is not None:
        assert not maps["darker"][images >= healthy].any()
    torch.testing.assert_close(maps["smooth"], smoothed(both, 1.5))


def test_f_anogans_darker_side_is_where_the_image_is_darker(monkeypatch):
    network = FAnoGAN(1, 8, 2, side="darker").eval()
    monkeypatch.setattr(network, "reconstruct", torch.zeros_like)  # gray, of patches in [-1, 1]
    image = torch.full((1, 1, 64, 64), 0.7)
    image[..., :32] = 0.1
    found = network(image)
    torch.testing.assert_close(found[..., :32], torch.full((1, 1, 64, 32), 0.8))
    assert not found[..., 32:].any()


@pytest.mark.parametrize("difference", ["of_normalized", "normalized"])
def test_agms_difference_has_one_side(difference):
    options = {"generator": GANomalyGenerator(64, 8, 1, 4), "in_channels": 1, "backbone": "resnet18", "width": 0.125}
    both, darker = (AGMClassifier(**options, difference=difference, side=side) for side in ("both", "darker"))
    x, healthy, retina = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64), torch.ones(2, 1, 64, 64)
    retina[..., :8] = 0
    x[:, :, 0, 10], x[:, :, 0, 11], healthy[:, :, 0, 10], healthy[:, :, 0, 11] = 0, 1, 0, 1  # so that norms do nothing
    found, whole = darker.difference(x, healthy, retina), both.difference(x, healthy, retina)
    assert not found[..., :8].any()
    assert not found[x >= healthy].any()
    if difference == "of_normalized":
        there = (x < healthy) & (retina > 0)
        torch.testing.assert_close(found[there], whole[there])
        torch.testing.assert_close(found[there], (healthy - x)[there], atol=0.02, rtol=0)
    else:
        assert found.amax() == 1


@pytest.mark.parametrize(
    ("options", "message"), [({"side": "left"}, "side must be one of"), ({"sigma": -1}, "sigma must be at least 0")]
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GANomaly(64, 8, 1, 4, **options)
    with pytest.raises(ValueError, match=message):
        FAnoGAN(1, 8, 2, **options)
