"""What every detector keeps: one map, of the input's size and metadata, the same each time, whole in its state dict."""

import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.networks.nets import FAnoGAN, FluidRegNet, GANomaly, NSANet, ReconstructionAutoencoder, ReSynthDetect


def _registered() -> FluidRegNet:
    network = FluidRegNet(2)
    network.set_references(torch.rand(3, 1, 64, 96))
    return network


DETECTORS = {  # a small one of each, and the size of an image
    "fanogan": (lambda: FAnoGAN(1, 8, 2), (1, 70, 100)),
    "fluidregnet": (_registered, (1, 64, 96)),
    "ganomaly": (lambda: GANomaly(32, 8, 3, 4), (3, 32, 32)),
    "nsa": (lambda: NSANet(1), (1, 50, 70)),
    "resynthdetect": (lambda: ReSynthDetect(channels=(4, 8)), (3, 16, 24)),
    "reconstruction": (lambda: ReconstructionAutoencoder(channels=(4, 8)), (3, 16, 24)),
}


@pytest.fixture(params=DETECTORS)
def case(request):
    make, shape = DETECTORS[request.param]
    return make().eval(), torch.rand(2, *shape), make


def test_one_map_of_the_inputs_size_and_metadata(case):
    network, images, _ = case
    with torch.no_grad():
        found = network(MetaTensor(images, affine=2 * torch.eye(4)))
        again = network(images)
    assert found.shape == (len(images), 1, *images.shape[2:])
    assert found.dtype == torch.float32
    assert torch.equal(found.affine, 2 * torch.eye(4, dtype=found.affine.dtype))
    assert torch.equal(found.as_tensor(), again)
    assert type(again) is torch.Tensor
    assert found.isfinite().all()
    assert found.min() >= 0


def test_images_of_a_batch_do_not_see_one_another(case):
    network, images, _ = case
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_type_is_the_same_in_training(case):
    network, images, _ = case
    with torch.no_grad():
        assert network.train()(images).shape == (len(images), 1, *images.shape[2:])


def test_all_state_is_in_the_state_dict(case, tmp_path):
    network, images, make = case
    network.calibration.fit(torch.linspace(0, 1, 11))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = FluidRegNet(2).eval() if isinstance(network, FluidRegNet) else make().eval()
    assert not other.calibration.is_fitted
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(images), network(images))
    assert other.calibration.is_fitted


def test_a_wrong_number_of_channels_is_one_clear_line(case):
    network, images, _ = case
    with pytest.raises(ValueError, match=r"expects \(B, \d, H, W\), got \(2, \d+"):
        network(images.expand(-1, 3, -1, -1)[:, :2] if images.shape[1] == 3 else images.expand(-1, 2, -1, -1))


@pytest.mark.filterwarnings("ignore:The tensor attribute self.warp.ref_grid:UserWarning")
def test_export(case):
    network, images, _ = case
    exported = torch.export.export(network, (images,), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(images), network(images), atol=1e-5, rtol=1e-4)
