import pytest
import torch
from monai.data import MetaTensor

from monai_anomaly.networks.nets import ASCDiscriminator, ASCNet


def test_one_map_out_with_the_metadata_of_the_input():
    network = ASCNet(channels=(4, 8, 8)).eval()
    images = MetaTensor(torch.rand(2, 1, 16, 24), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    found = network(images)
    assert isinstance(found, MetaTensor)
    assert found.shape == (2, 1, 16, 24)
    assert torch.equal(found.affine, images.affine)
    torch.testing.assert_close(found.as_tensor(), network.cuts(images)[2])
    assert isinstance(network.train()(images), MetaTensor)


def test_dark_lesions_turn_the_map_over():
    bright, dark = ASCNet(channels=(4, 8)).eval(), ASCNet(channels=(4, 8), dark_lesions=True).eval()
    dark.load_state_dict({**bright.state_dict(), "_trained_for_dark": torch.tensor(True)})
    images = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(dark(images), 1 - bright(images))


@pytest.mark.parametrize("shape", [(1, 1, 30, 32), (1, 1, 32, 40), (1, 1, 0, 32)])
def test_sizes_must_fit(shape):
    with pytest.raises(ValueError, match=r"is not a multiple of 16; pad to (32|48|16) \(DivisiblePadd\(k=16\)\)"):
        ASCNet()(torch.rand(shape))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"expects \(B, 1, H, W\), got \(1, 2, 16, 16\)"):
        ASCNet(channels=(4, 8))(torch.rand(1, 2, 16, 16))
    with pytest.raises(ValueError, match="made for 16 x 16 images, got 32 x 16; set image_size"):
        ASCDiscriminator(image_size=(16, 16), channels=(4, 8))(torch.rand(1, 1, 32, 16))
    with pytest.raises(ValueError, match="not a multiple of 16"):
        ASCDiscriminator(image_size=(100, 160))
    with pytest.raises(ValueError, match="dropout must be at least 0"):
        ASCNet(dropout=-1)


def test_discriminator_judges_within_one_and_starts_anew():
    discriminator = ASCDiscriminator(image_size=(16, 16), channels=(4, 8)).eval()
    with torch.no_grad():
        judgments = discriminator(100 * torch.randn(5, 1, 16, 16))
    assert judgments.shape == (5,)
    assert float(judgments.abs().max()) <= 1
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    discriminator.encoder.stages[0][0].adn.N.running_mean += 1
    discriminator.reset_parameters()
    after = discriminator.state_dict()
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["encoder.stages.0.0.conv.weight"], after["encoder.stages.0.0.conv.weight"])
    assert float(after["encoder.stages.0.0.adn.N.running_mean"].abs().max()) == 0


def test_dropout_where_the_paper_and_the_code_have_it():
    rates = [drop.p for drop in ASCNet().fence_decoder.drops]
    assert rates == [0.3, 0.3, 0.3, 0.0]
    assert [drop.p for drop in ASCNet(fence_top_dropout=True).fence_decoder.drops] == [0.3] * 4
    assert [drop.p for drop in ASCNet().wild_decoder.drops] == [0.3] * 4


def test_state_holds_threshold_and_calibration():
    network, other = ASCNet(channels=(4, 8)), ASCNet(channels=(4, 8))
    assert network.threshold != network.threshold  # NaN before training
    network.threshold = 0.75
    network.calibration.fit(torch.linspace(0, 1, 11))
    other.load_state_dict(network.state_dict())
    assert other.threshold == 0.75
    assert other.calibration.is_fitted


def test_weights_are_not_used_for_other_lesions():
    dark = ASCNet(channels=(4, 8), dark_lesions=True)
    with pytest.raises(ValueError, match="trained with dark_lesions=True, the network has False"):
        ASCNet(channels=(4, 8)).load_state_dict(dark.state_dict())


def test_two_inputs_channels_are_averaged_for_nobody_but_the_loss():
    network = ASCNet(in_channels=2, channels=(4, 8)).eval()
    assert network(torch.rand(1, 2, 8, 8)).shape == (1, 1, 8, 8)


def test_onnx_like_tracing_gives_the_same_map():
    network = ASCNet(channels=(4, 8)).eval()
    images = torch.rand(1, 1, 16, 16)
    exported = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(exported(torch.flip(images, (2,))), network(torch.flip(images, (2,))))
