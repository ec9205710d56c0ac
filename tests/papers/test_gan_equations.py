"""f-AnoGAN and GANomaly: parameters, losses, scores."""

import numpy as np
import pytest
import torch
from torch import nn

from monai_anomaly.losses import (
    EncoderLoss,
    GANomalyLoss,
    WassersteinCriticLoss,
    WassersteinGeneratorLoss,
    discriminator_loss,
    gradient_penalty,
)
from monai_anomaly.networks.nets import (
    FAnoGAN,
    FAnoGANCritic,
    FAnoGANEncoder,
    FAnoGANGenerator,
    GANomaly,
    GANomalyDiscriminator,
    GANomalyGenerator,
)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (FAnoGANGenerator, 8_539_329),
        (FAnoGANCritic, 7_490_689),
        (FAnoGANEncoder, 8_531_200),
        (GANomalyGenerator, 146_010_304),
        (GANomalyDiscriminator, 44_770_688),
        (lambda: GANomalyGenerator().encoder, 48_670_080),
        (lambda: GANomalyGenerator().decoder, 48_670_144),
        (lambda: GANomalyGenerator(64, 100, 3, 64), 10_729_856),
        (lambda: GANomalyDiscriminator(64, 3, 64), 2_765_568),
        (lambda: GANomalyGenerator(32, 100, 3, 64), 3_206_528),
        (lambda: GANomalyDiscriminator(32, 3, 64), 663_296),
    ],
)
def test_parameters(make, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make().parameters()) == count


class TestFAnoGAN:
    def test_shapes_and_ranges(self):
        patches = FAnoGANGenerator(channels=2)(torch.randn(3, 128))
        assert patches.shape == (3, 1, 64, 64)
        assert patches.abs().max() <= 1
        latents = FAnoGANEncoder(channels=2)(patches)
        assert latents.shape == (3, 128)
        assert latents.abs().max() < 1
        with torch.device("meta"):
            critic = FAnoGANCritic()
            assert critic.features(torch.empty(3, 1, 64, 64)).shape == (3, 8192)
            assert critic(torch.empty(3, 1, 64, 64)).shape == (3,)

    def test_the_critic_judges_each_patch_alone(self):
        critic, patches = FAnoGANCritic(channels=2).train(), torch.randn(4, 1, 64, 64)
        alone = torch.cat([critic(patch[None]) for patch in patches])
        torch.testing.assert_close(critic(patches), alone, atol=1e-5, rtol=1e-4)

    def test_penalty_of_a_linear_critic(self):
        for scale, expected in ((1.0, 0.0), (3.0, 4.0)):
            weight = torch.randn(5, 4)
            weight *= scale / weight.norm()
            found = gradient_penalty(lambda x, w=weight: (x * w).flatten(1).sum(1), torch.randn(6, 5, 4))
            torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)

    def test_critic_loss_against_a_loop(self):
        critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
        real, fake, share = torch.randn(4, 2, 3).double(), torch.randn(4, 2, 3).double(), torch.rand(4).double()
        expected = 0.0
        for x, g, e in zip(real, fake, share, strict=True):
            point = (x + e * (g - x))[None].requires_grad_(True)
            (slope,) = torch.autograd.grad(critic(point)[0], point)
            expected += float((critic(g[None]) - critic(x[None]) + 10 * (slope.norm() - 1) ** 2).detach()) / 4
        found = WassersteinCriticLoss(critic)(fake, real, share)
        assert float(found.detach()) == pytest.approx(expected)
        found.backward()
        assert all(parameter.grad is not None for parameter in critic.parameters() if parameter.ndim > 1)
        fake.requires_grad_(True)
        loss = WassersteinGeneratorLoss(critic)(fake)
        assert float(loss.detach()) == pytest.approx(-float(critic(fake).detach().mean()))
        loss.backward()
        assert fake.grad.abs().max() > 0

    def test_score_and_encoder_loss(self):
        network = FAnoGAN(1, 8, 2).eval()
        patches = torch.rand(3, 1, 64, 64) * 2 - 1
        with torch.no_grad():
            again = network.generator(network.encoder(patches))
            f, g = network.critic.features(patches), network.critic.features(again)
            image = [float(((x - y) ** 2).mean()) for x, y in zip(patches, again, strict=True)]
            feature = [float(((x - y) ** 2).mean()) for x, y in zip(f, g, strict=True)]
            np.testing.assert_allclose(network.score(patches), np.add(image, feature), rtol=1e-4)
            network.kappa = 0
            np.testing.assert_allclose(network.score(patches), image, rtol=1e-4)
            assert float(EncoderLoss()(network.encoding(patches), patches)) == pytest.approx(
                np.mean(image) + np.mean(feature), rel=1e-4
            )
            assert float(EncoderLoss(0)(network.encoding(patches), patches)) == pytest.approx(np.mean(image), rel=1e-4)

    @pytest.mark.parametrize("blend", ["gaussian", "constant"])
    def test_windows_of_one_value_give_that_value(self, blend, monkeypatch):
        network = FAnoGAN(1, 8, 2, blend=blend).eval()
        monkeypatch.setattr(network, "residual", lambda patches: torch.full_like(patches, 0.3))
        torch.testing.assert_close(network(torch.rand(1, 1, 496, 130)), torch.full((1, 1, 496, 130), 0.3))
        torch.testing.assert_close(network(torch.rand(1, 1, 30, 40)), torch.full((1, 1, 30, 40), 0.3))

    def test_a_perfect_reconstruction_has_no_residual(self, monkeypatch):
        network = FAnoGAN(1, 8, 2).eval()
        monkeypatch.setattr(network, "reconstruct", lambda patches: patches)
        patches = torch.rand(2, 1, 64, 64)
        assert not network(patches).any()
        assert not network.score(patches).any()


class TestGANomaly:
    def test_shapes_and_ranges(self):
        generator = GANomalyGenerator(32, 7, 2, 4).eval()
        again, latents, latents_again = generator.reconstruct(torch.rand(3, 2, 32, 32) * 2 - 1)
        assert again.shape == (3, 2, 32, 32)
        assert again.abs().max() <= 1
        assert latents.shape == latents_again.shape == (3, 7, 1, 1)
        assert GANomalyDiscriminator(32, 2, 4)(again).shape == (3,)

    def test_loss_against_a_loop_and_its_weights(self):
        f, x, z = ((torch.randn(3, 4), torch.randn(3, 4)) for _ in range(3))
        terms = [0.0, 0.0, 0.0]
        for i in range(3):
            for j in range(4):
                terms[0] += float((f[0][i, j] - f[1][i, j]) ** 2) / 12
                terms[1] += float((x[0][i, j] - x[1][i, j]).abs()) / 12
                terms[2] += float((z[0][i, j] - z[1][i, j]) ** 2) / 12
        assert float(GANomalyLoss()(f, x, z)) == pytest.approx(terms[0] + 50 * terms[1] + terms[2], rel=1e-5)
        agm = GANomalyLoss(encoder=0.1)
        assert float(agm(f, x, z)) == pytest.approx(terms[0] + 50 * terms[1] + 0.1 * terms[2], rel=1e-5)
        assert float(GANomalyLoss()((f[0], f[0]), (x[0], x[0]), (z[0], z[0]))) == 0
        with pytest.raises(ValueError, match="contextual must be at least 0"):
            GANomalyLoss(contextual=-1)

    def test_discriminator_loss(self):
        real, fake = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 0.5])
        p = torch.sigmoid
        expected = -(p(real).log().mean() + (1 - p(fake)).log().mean()) / 2
        torch.testing.assert_close(discriminator_loss(real, fake), expected)

    def test_score_and_map(self, monkeypatch):
        network = GANomaly(32, 7, 1, 4).eval()
        images = torch.rand(2, 1, 32, 32)
        with torch.no_grad():
            again, z, z_again = network.generator.reconstruct(2 * images - 1)
            torch.testing.assert_close(network(images), (images - (again + 1) / 2).abs())
            expected = [float(((a - b) ** 2).mean()) for a, b in zip(z, z_again, strict=True)]
            np.testing.assert_allclose(network.score(images), expected, rtol=1e-5)
            monkeypatch.setattr(network.generator, "forward", lambda x: x)
            torch.testing.assert_close(network(images), torch.zeros_like(images), atol=1e-6, rtol=0)

    def test_sizes_that_do_not_fit(self):
        with pytest.raises(ValueError, match="power of two from 16 on, got 48; resize the images to 64 x 64"):
            GANomalyGenerator(48)
        with pytest.raises(ValueError, match="made for 32 x 32 images, got 32 x 64"):
            GANomaly(32, 7, 1, 4)(torch.rand(1, 1, 32, 64))
