"""Losses of the generative detectors, f-AnoGAN (Schlegl et al. 2019) and GANomaly (Akcay et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_range


def gradient_penalty(critic: Callable[[Tensor], Tensor], between: Tensor) -> Tensor:
    """Return E[(|grad D(x)|_2 - 1)^2], with which D is trained to be 1-Lipschitz (WGAN-GP).

    Args:
        critic: D, images to judgments (B,), each of its own image alone.
        between: where to look, (B, ...); points between real and generated images.
    """
    points = between.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class WassersteinGeneratorLoss(nn.Module):
    """-E[D(G(z))], for MONAI's GanTrainer.

    Args:
        critic: D, images to judgments (B,).
    """

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, fake: Tensor) -> Tensor:
        """Return the loss of G(z), (B, ...)."""
        return torch.as_tensor(-self.critic(fake).mean())


class WassersteinCriticLoss(nn.Module):
    """E[D(G(z))] - E[D(x)] + 10 E[(|grad D(x')|_2 - 1)^2], x' = x + e (G(z) - x), e uniform in [0, 1] per sample.

    For MONAI's GanTrainer.

    Args:
        critic: D, images to judgments (B,).
        penalty: weight of the gradient penalty.

    Raises:
        ValueError: a negative penalty.
    """

    def __init__(self, critic: nn.Module, penalty: float = 10.0) -> None:
        super().__init__()
        check_range("penalty", penalty, 0)
        self.critic, self.penalty = critic, penalty

    def forward(self, fake: Tensor, real: Tensor, share: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            fake: G(z), (B, ...); nothing flows back into it.
            real: x, (B, ...).
            share: e, (B,), drawn by default.
        """
        fake = fake.detach()[: len(real)]  # GanTrainer makes a full batch beside the last, smaller one
        share = torch.rand(len(real), device=real.device) if share is None else share
        between = real + share.reshape(-1, *(1,) * (real.ndim - 1)) * (fake - real)
        penalty = gradient_penalty(self.critic, between)
        return torch.as_tensor(self.critic(fake).mean() - self.critic(real).mean() + self.penalty * penalty)


class EncoderLoss(nn.Module):
    """|x - G(E(x))|^2 + kappa |f(x) - f(G(E(x)))|^2, means over pixels and over features (izi_f).

    Args:
        kappa: weight of the features; 0 gives izi.

    Raises:
        ValueError: a negative kappa.
    """

    def __init__(self, kappa: float = 1.0) -> None:
        super().__init__()
        check_range("kappa", kappa, 0)
        self.kappa = kappa

    def forward(self, found: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
        """Return the loss of (G(E(x)), f(G(E(x))), f(x)), see `FAnoGAN.encoding`, and x."""
        again, features_again, features = found
        return F.mse_loss(again, images) + self.kappa * F.mse_loss(features_again, features)


class GANomalyLoss(nn.Module):
    """w_adv |f(x) - f(x_hat)|^2 + w_con |x - x_hat| + w_enc |z - z_hat|^2, means.

    Args:
        adversarial: w_adv (1).
        contextual: w_con (50).
        encoder: w_enc (1; AGM: 0.1).

    Raises:
        ValueError: a negative weight.
    """

    def __init__(self, adversarial: float = 1.0, contextual: float = 50.0, encoder: float = 1.0) -> None:
        super().__init__()
        for name, weight in (("adversarial", adversarial), ("contextual", contextual), ("encoder", encoder)):
            check_range(name, weight, 0)
        self.weights = (adversarial, contextual, encoder)

    def forward(
        self,
        features: tuple[Tensor, Tensor],
        images: tuple[Tensor, Tensor],
        latents: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return the loss of (f(x), f(x_hat)), (x, x_hat) and (z, z_hat)."""
        adversarial, contextual, encoder = self.weights
        return (
            adversarial * F.mse_loss(features[1], features[0])
            + contextual * F.l1_loss(images[1], images[0])
            + encoder * F.mse_loss(latents[1], latents[0])
        )


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return (BCE(D(x), 1) + BCE(D(x_hat), 0)) / 2 of logits (B,)."""
    real_loss = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    return (real_loss + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))) / 2
