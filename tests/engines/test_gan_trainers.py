"""f-AnoGAN through MONAI's trainers, GANomaly through ours: they learn, and train what they should."""

import logging

import pytest
import torch
from ignite.engine import Events
from monai.engines import GanTrainer, SupervisedTrainer
from monai.utils import set_determinism

from monai_anomaly.engines import GANomalyTrainer
from monai_anomaly.engines import ganomaly as ganomaly_engine
from monai_anomaly.inferers import MethodInferer
from monai_anomaly.losses import EncoderLoss, WassersteinCriticLoss, WassersteinGeneratorLoss
from monai_anomaly.networks.nets import FAnoGAN, GANomaly


def stripes(count, size):
    """Images of one bright stripe each."""
    rows = torch.arange(size)[None, :, None]
    middle = torch.linspace(0.3, 0.7, count)[:, None, None] * size
    return torch.exp(-(((rows - middle) / (0.1 * size)) ** 2)).expand(-1, -1, size)[:, None]


def weights(*modules):
    return [p.detach().clone() for module in modules for p in module.parameters()]


def moved(before, *modules):
    return [not torch.equal(a, b) for a, b in zip(before, weights(*modules), strict=True)]


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")  # GanTrainer's
def test_fanogan_by_monais_trainers():
    set_determinism(0)
    network = FAnoGAN(1, 8, 2)
    patches = 2 * stripes(14, 64) - 1  # the last batch is smaller
    before = weights(network.encoder)
    gan = GanTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=torch.utils.data.DataLoader([{"image": p} for p in patches], batch_size=8),
        g_network=network.generator,
        g_optimizer=torch.optim.Adam(network.generator.parameters(), 1e-4, (0.0, 0.9)),
        g_loss_function=WassersteinGeneratorLoss(network.critic),
        d_network=network.critic,
        d_optimizer=torch.optim.Adam(network.critic.parameters(), 1e-4, (0.0, 0.9)),
        d_loss_function=WassersteinCriticLoss(network.critic),
        d_train_steps=5,
        latent_shape=8,
        d_prepare_batch=lambda batch, device, non_blocking, **_: batch["image"],
    )
    other = weights(network.generator, network.critic)
    gan.run()
    assert sum(moved(other, network.generator, network.critic)) > 0.9 * len(other)
    norms = [m for m in network.generator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.running_mean.any() for m in norms)
    assert not any(moved(before, network.encoder))
    fixed = weights(network.generator, network.critic)
    losses = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=15,
        train_data_loader=torch.utils.data.DataLoader([{"image": p, "label": p} for p in patches], batch_size=8),
        network=network,
        optimizer=torch.optim.RMSprop(network.encoder.parameters(), 1e-3),
        loss_function=EncoderLoss(),
        inferer=MethodInferer("encoding"),
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].item()))
    trainer.run()
    assert losses[-1] < losses[0]
    assert all(moved(before, network.encoder))
    assert not any(moved(fixed, network.generator, network.critic))
    assert not network.train().generator.training
    set_determinism(None)


def train_ganomaly(network, epochs, images):
    losses = []
    betas = (0.5, 0.999)
    trainer = GANomalyTrainer(
        "cpu",
        epochs,
        torch.utils.data.DataLoader([{"image": image} for image in images], batch_size=8),
        network,
        torch.optim.Adam(network.generator.parameters(), 2e-3, betas),
        torch.optim.Adam(network.discriminator.parameters(), 2e-3, betas),
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(dict(e.state.output)))
    trainer.run()
    return losses


def test_ganomaly_learns_healthy_images_and_not_others():
    torch.manual_seed(0)
    network, images = GANomaly(32, 8, 1, 8), stripes(32, 32)
    losses = train_ganomaly(network, 40, images)
    assert losses[-1]["loss"] < 0.4 * losses[0]["loss"]
    sick = images.clone()
    sick[:, :, 2:8, 4:12] = 1
    with torch.no_grad():
        healthy_map, sick_map = network.eval()(images), network(sick)
        assert sick_map[:, :, 2:8, 4:12].mean() > 3 * healthy_map.mean()
        assert network.score(sick).mean() > network.score(images).mean()


def test_a_discriminator_that_has_won_starts_anew(monkeypatch, caplog):
    monkeypatch.setattr(ganomaly_engine, "_COLLAPSED", 1e3)
    network = GANomaly(32, 8, 1, 4)
    with caplog.at_level(logging.INFO, "monai_anomaly"):
        train_ganomaly(network, 1, stripes(8, 32))
    assert "it starts anew" in caplog.text
    norms = [m for m in network.discriminator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(not m.running_mean.any() for m in norms)
    assert all(not m.bias.detach().any() for m in norms)
