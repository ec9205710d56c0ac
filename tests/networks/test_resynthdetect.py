import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.networks.blocks import ConvStage
from monai_anomaly.networks.nets import ReconstructionAutoencoder, ReSynthDetect

SMALL = (4, 8, 8)


@pytest.mark.parametrize("guidance", ["features", "image", "none"])
def test_one_map_out_with_the_metadata_of_the_input(guidance):
    network = ReSynthDetect(channels=SMALL, guidance=guidance).eval()
    images = MetaTensor(torch.rand(2, 3, 16, 24), affine=2 * torch.eye(4))
    with torch.no_grad():
        found = network(images)
        torch.testing.assert_close(found.as_tensor(), torch.sigmoid(network.logits(images)))
    assert found.shape == (2, 1, 16, 24)
    assert torch.equal(found.affine, images.affine)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    with torch.no_grad():
        assert isinstance(network.train()(images), MetaTensor)


@pytest.mark.parametrize("guidance", ["features", "image"])
def test_what_reconstructs_is_frozen_and_in_evaluation_mode(guidance):
    network = ReSynthDetect(channels=SMALL, guidance=guidance).train()
    frozen = network.reconstruction or network.reconstruction_encoder
    assert not any(module.training for module in frozen.modules())
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network.logits(torch.rand(2, 3, 8, 8)).mean().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())
    assert network.encoder.training
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())


def test_the_encoder_comes_from_the_autoencoder(tmp_path):
    autoencoder = ReconstructionAutoencoder(channels=SMALL)
    torch.save(autoencoder.state_dict(), tmp_path / "r.pt")
    images = torch.rand(1, 3, 8, 8)
    network = ReSynthDetect(channels=SMALL).load_reconstruction(tmp_path / "r.pt")
    for own, theirs in zip(network.reconstruction_encoder(images), autoencoder.eval().encoder(images), strict=True):
        torch.testing.assert_close(own, theirs)
    beside = ReSynthDetect(channels=SMALL, guidance="image").load_reconstruction(tmp_path / "r.pt")
    torch.testing.assert_close(beside.reconstruction.reconstruct(images), autoencoder.reconstruct(images))
    untouched = ReSynthDetect(channels=SMALL)
    before = untouched.reconstruction_encoder.stages[0][0].conv.weight.clone()
    untouched.load_reconstruction(None)
    assert torch.equal(before, untouched.reconstruction_encoder.stages[0][0].conv.weight)


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="train the autoencoder first"):
        ReSynthDetect(channels=SMALL).load_reconstruction(tmp_path / "none.pt")
    torch.save(ReconstructionAutoencoder(channels=(4, 8, 16)).state_dict(), tmp_path / "other.pt")
    with pytest.raises(RuntimeError, match="size mismatch"):
        ReSynthDetect(channels=SMALL).load_reconstruction(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="Did you mean 'features'"):
        ReSynthDetect(guidance="feature")
    with pytest.raises(ValueError, match="Input width 30 is not a multiple of 4; pad to 32"):
        ReSynthDetect(channels=SMALL)(torch.rand(1, 3, 16, 30))
    with pytest.raises(ValueError, match=r"expects \(B, 3, H, W\), got \(1, 1, 8, 8\)"):
        ReconstructionAutoencoder(channels=SMALL)(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="number of channels must be at least 2"):
        ReconstructionAutoencoder(channels=(4,))
    with pytest.raises(ValueError, match="ordering must be one of"):
        ConvStage(1, 1, "NAN")


def test_a_trained_autoencoder_gives_images_back():
    torch.manual_seed(0)
    network = ReconstructionAutoencoder(in_channels=1, channels=(8, 16)).train()
    images = torch.nn.functional.interpolate(torch.rand(4, 1, 4, 4), 16, mode="bilinear")
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = (network.reconstruct(images) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
