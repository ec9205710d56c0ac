"""The contract of a detector."""

import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.networks.blocks import MemoryBank
from monai_anomaly.networks.nets import ReSAD


def test_map_is_at_the_image_resolution_and_does_not_depend_on_the_mode(detector):
    x = torch.rand(2, 3, 50, 70)
    anomaly_map = detector(x)
    assert anomaly_map.shape == (2, 1, 50, 70)
    assert anomaly_map.dtype == torch.float32
    assert torch.isfinite(anomaly_map).all()
    assert torch.equal(detector.train()(x), anomaly_map)


def test_a_batch_is_each_image_alone(detector):
    x = torch.rand(3, 3, 64, 64)
    alone = torch.cat([detector(image[None]) for image in x])
    torch.testing.assert_close(detector(x), alone, atol=1e-3, rtol=1e-3)


def test_metadata_goes_along(detector):
    image = MetaTensor(torch.rand(1, 3, 64, 64), affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
    assert torch.equal(detector(image).affine, image.affine)


def test_images_of_the_bank_score_zero():
    network = ReSAD("resnet18", radius=2).load_backbone("random").eval()
    x = torch.rand(1, 3, 64, 64)
    network.memory_bank.fit(network.features(x).flatten(2)[0].T, 1.0)
    assert float(network(x).max()) == pytest.approx(0, abs=1e-4)
    assert float(network(torch.rand(1, 3, 64, 64)).min()) > 0


def test_state_dict_brings_it_back_whole(detector, tmp_path):
    torch.save(detector.state_dict(), tmp_path / "model.pt")
    other = ReSAD("resnet18", radius=2).eval()
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(other(x), detector(x))
    assert other.feature_provenance == "random (seed 0), untrained"
    assert other.calibration.is_fitted


def test_patchcore_pools_and_smooths():
    settings = {"backbone": "resnet18", "radius": 0, "attention": "none"}
    bank, x = torch.randn(20, 384), torch.rand(1, 3, 64, 64)
    plain, pooled, smooth = (
        ReSAD(**settings, **more, memory_bank=MemoryBank(bank)).load_backbone("random").eval()
        for more in ({}, {"pooling_size": 3}, {"pooling_size": 3, "smoothing_sigma": 4})
    )
    pool = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(pooled.features(x)[:, :128], pool(plain.features(x)[:, :128], 3, 1, 1))
    assert smooth(x).diff(2).abs().mean() < 0.8 * pooled(x).diff(2).abs().mean()
    border, inside = smooth(x)[..., 0].mean(), pooled(x)[..., :8].mean()
    assert abs(border - inside) < 0.1 * inside  # the smoothing does not darken the border


@pytest.mark.parametrize("in_channels", [1, 4])
def test_any_number_of_channels(in_channels):
    network = ReSAD("resnet18", in_channels=in_channels, radius=2).load_backbone("random").eval()
    network.memory_bank.fit(torch.randn(20, 384), 1.0)
    assert network(torch.rand(1, in_channels, 64, 64) * 65535).shape == (1, 1, 64, 64)


def test_errors(detector):
    with pytest.raises(RuntimeError, match="memory bank is empty"):
        ReSAD("resnet18")(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"expects \(B, 3, H, W\), got \(1, 1, 64, 64\)"):
        detector(torch.rand(1, 1, 64, 64))
    with pytest.raises(ValueError, match="levels must increase"):
        ReSAD("resnet18", levels=(3, 2))
    with pytest.raises(ValueError, match="pooling_size must be odd"):
        ReSAD("resnet18", pooling_size=2)
    with pytest.raises(ValueError, match="attention must be one of"):
        ReSAD("resnet18", attention="self")
    with pytest.raises(ValueError, match="radius"):
        ReSAD("resnet18", radius=-1)
    with pytest.raises(ValueError, match="temperature"):
        ReSAD("resnet18", temperature=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_gives_the_same_map(detector):
    x = torch.rand(1, 3, 64, 64)
    expected = detector(x)
    torch.testing.assert_close(detector.cuda()(x.cuda()).cpu(), expected, atol=1e-2, rtol=1e-2)
