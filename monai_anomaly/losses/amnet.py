"""The losses of anomaly-guided segmentation (Kahrs et al. 2025, sections II.II and II.III)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional as F

from monai_anomaly.checks import check_range
from monai_anomaly.transforms.resize_images import resize_images

_GATES = ("gate_4", "gate_2")


class GuidedSegmentationLoss(nn.Module):
    """L_fluid, and where the network has more to say, L_ano or L_AG1 + L_AG2.

    L_fluid is cross-entropy + Dice loss over all classes, the batch as a whole (MONAI's DiceCELoss). L_ano (IDAG) is
    the binary cross-entropy of a further output with the map. L_AGi (AnoG-AMNet) is the mean squared error of a gate's
    alpha and the map at its resolution.

    Args:
        guide_gates: add L_AG1 + L_AG2; without, gates learn by L_fluid alone (AMNet).
        dice_weight: of the Dice loss beside the cross-entropy (ours: 1).
        anomaly_weight: of L_ano and of each L_AGi (paper: 1).

    Shape:
        outputs of a segmenter: "logits" (B, K, H, W), perhaps "anomaly_logits" (B, 1, H, W), "gate_4" and "gate_2"
        (B, 1, h, w); target: "label" (B, 1, H, W), classes 0 to K - 1, and "anomaly_map" (B, 1, H, W) in [0, 1] where
        a term wants it; output ().

    Raises:
        ValueError: weights below 0; while running, a term wants a map and there is none, or gates and there are none.
    """

    def __init__(self, guide_gates: bool = False, dice_weight: float = 1.0, anomaly_weight: float = 1.0) -> None:
        super().__init__()
        check_range("dice_weight", dice_weight, 0)
        check_range("anomaly_weight", anomaly_weight, 0)
        self.guide_gates, self.anomaly_weight = guide_gates, anomaly_weight
        self.fluid = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, lambda_dice=dice_weight)

    def terms(self, outputs: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms by name."""
        found = {"fluid": self.fluid(outputs["logits"], target["label"])}
        if "anomaly_logits" in outputs:
            logits = outputs["anomaly_logits"]
            found["ano"] = self.anomaly_weight * F.binary_cross_entropy_with_logits(logits, self._map(target))
        if self.guide_gates:
            gates = [outputs[name] for name in _GATES if name in outputs]
            if not gates:
                msg = f"guide_gates needs a network with gates, got {', '.join(outputs)}; use guidance='gate'."
                raise ValueError(msg)
            for number, alpha in enumerate(gates, 1):
                scaled = resize_images(self._map(target), alpha.shape[2:])
                found[f"AG{number}"] = self.anomaly_weight * F.mse_loss(alpha, scaled)
        return found

    def forward(self, outputs: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss."""
        return torch.stack(list(self.terms(outputs, target).values())).sum()

    def _map(self, target: Mapping[str, Tensor]) -> Tensor:
        if "anomaly_map" not in target:
            msg = (
                "The loss wants anomaly maps and the data have none; pass the maps' folder and the guide (--maps_dir)."
            )
            raise ValueError(msg)
        return target["anomaly_map"].float()
