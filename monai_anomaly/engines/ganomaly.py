"""Training of GANomaly: generator and discriminator by turns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import Trainer
from monai.utils import CommonKeys
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from monai_anomaly import ranks
from monai_anomaly.losses import GANomalyLoss, discriminator_loss
from monai_anomaly.networks.nets import GANomaly

logger = logging.getLogger(__name__)

_COLLAPSED = 1e-5  # discriminator's loss below which the authors' code starts it anew


class GANomalyTrainer(Trainer):
    """Train a `GANomaly`: for each batch first the generator, then the discriminator (Akcay et al. 2018, section 3.2).

    A discriminator whose loss falls below 1e-5 has nothing left to teach and starts anew, as in the authors' code.

    Args:
        device: where the network runs.
        max_epochs: passes over the data (authors' code: 15; AGM: 20).
        train_data_loader: batches with "image", (B, C, S, S) in [0, 1], healthy.
        network: the detector.
        optimizer: of the generator (Adam, 2e-4, betas 0.5 and 0.999; AGM: 2e-3).
        d_optimizer: of the discriminator.
        loss_function: of the generator; by default the paper's weights.
        train_handlers: MONAI or ignite handlers; the output has "loss", the generator's, and "d_loss".
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: DataLoader,
        network: GANomaly,
        optimizer: Optimizer,
        d_optimizer: Optimizer,
        loss_function: GANomalyLoss | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.network = network
        self.optimizer, self.d_optimizer = optimizer, d_optimizer
        self.loss_function = GANomalyLoss() if loss_function is None else loss_function
        self.inferer = network  # the zoo's train properties ask for one
        super().__init__(
            device=torch.device(device), max_epochs=max_epochs, data_loader=train_data_loader, decollate=False
        )
        for handler in train_handlers or []:
            handler.attach(self)

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        """Return the losses of a generator's and a discriminator's step."""
        images = 2 * torch.as_tensor(batchdata[CommonKeys.IMAGE]).to(engine.state.device).float() - 1
        generator, discriminator = self.network.generator, self.network.discriminator
        self.network.train()
        again, latents, latents_again = generator.reconstruct(images)
        with torch.no_grad():
            features = discriminator.features(images)
        loss = self.loss_function((features, discriminator.features(again)), (images, again), (latents, latents_again))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        d_loss = discriminator_loss(discriminator(images), discriminator(again.detach()))
        self.d_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(d_loss)
        self.d_optimizer.step()
        if ranks.mean(float(d_loss.detach())) < _COLLAPSED:
            logger.info("the discriminator's loss is %.1e: it starts anew", float(d_loss.detach()))
            discriminator.reset_parameters()
            ranks.copy_from_first(discriminator)
        return {CommonKeys.IMAGE: images, CommonKeys.LOSS: float(loss.detach()), "d_loss": float(d_loss.detach())}
