"""Refinement of a classifier with its own maps: what they point at is shown more, the rest less.

Yang et al. 2024, section 3.3 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor

from monai_anomaly.checks import check_option
from monai_anomaly.inferers.grad_cam import SmoothedGradCAM
from monai_anomaly.keys import PRESENT
from monai_anomaly.networks.nets.agm import min_max

WEIGHTS = ("probabilities", "logits")


class ClassTargets:
    """MONAI's ``prepare_batch`` of a classifier: the image, and which classes are there, (B, N).

    Args:
        background: add a last class that every image has, as AGM does.
    """

    def __init__(self, background: bool = True) -> None:
        self.background = background

    def __call__(
        self,
        batch: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return "image" (B, C, H, W) and "present" (B, K), with ones added, on the device."""
        options = {"device": device, "non_blocking": non_blocking, **kwargs}
        images, present = batch[CommonKeys.IMAGE].to(**options), batch[PRESENT].to(**options).float()
        if self.background:
            present = torch.cat((present, torch.ones_like(present[:, :1])), 1)
        return images, present


def focus_mask(maps: Tensor, logits: Tensor, weights: str = "probabilities") -> Tensor:
    """Return SM, the sum over lesions of p_n H_n brought to [0, 1] (Eq. 11 and 12), (B, 1, H, W).

    Args:
        maps: H, (B, K, H, W), in [0, 1].
        logits: (B, N), the lesions' first.
        weights: p_n as "probabilities", or "logits" as in the published code.
    """
    check_option("weights", weights, WEIGHTS)
    said = logits[:, : maps.shape[1], None, None]
    return min_max(((said.sigmoid() if weights == "probabilities" else said) * maps).sum(1, keepdim=True), 1e-5)


class RefinementTrainer(SupervisedTrainer):
    """MONAI's SupervisedTrainer of an `AGMClassifier` that sees its image through its own maps.

    Each step first asks for the maps of all lesions, without smoothing and without gradients of the weights, then
    trains on [SM * x; x_hat], the other branch's input as it was.

    Args:
        cam: of the classifier.
        num_lesions: classes that are lesions, the first ones.
        weights: see `focus_mask`.
        kwargs: of SupervisedTrainer; ``network`` is the classifier.
    """

    def __init__(self, cam: SmoothedGradCAM, num_lesions: int, weights: str = "probabilities", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cam, self.num_lesions, self.weights = cam, num_lesions, check_option("weights", weights, WEIGHTS)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        images, targets = self.prepare_batch(batchdata, engine.state.device, engine.non_blocking)
        engine.network.train()
        logits, maps = self.cam.maps(images, self.num_lesions)
        focus = focus_mask(maps, logits, self.weights)
        engine.state.output = {CommonKeys.IMAGE: images, CommonKeys.LABEL: targets}
        engine.optimizer.zero_grad(set_to_none=True)
        found = engine.network.logits(images, focus)
        loss = engine.loss_function(found, targets)
        engine.state.output |= {CommonKeys.PRED: found, CommonKeys.LOSS: loss}
        _fire(engine, IterationEvents.FORWARD_COMPLETED, IterationEvents.LOSS_COMPLETED)
        torch.autograd.backward(loss)
        _fire(engine, IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()
        _fire(engine, IterationEvents.MODEL_COMPLETED)
        return dict(engine.state.output)


def _fire(engine: Engine, *events: IterationEvents) -> None:
    for event in events:
        engine.fire_event(event)
