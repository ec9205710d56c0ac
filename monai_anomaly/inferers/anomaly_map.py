"""Map and score of 2-D images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer
from torch import Tensor

from monai_anomaly.checks import check_range
from monai_anomaly.keys import ANOMALY_MAP, ANOMALY_SCORE
from monai_anomaly.transforms.anomaly_score import anomaly_score


class AnomalyMapInferer(Inferer):
    """Return a detector's anomaly map and one score per image, in a dictionary.

    Args:
        top_k: pixels of the map the score averages, at least 1 (ReSAD: 1, the maximum).
        network_score: take the score from the network's ``map_and_score`` instead.

    Shape:
        images (B, C, H, W); "anomaly_map" (B, 1, H, W), "anomaly_score" (B,).

    Raises:
        ValueError: top_k < 1.
    """

    def __init__(self, top_k: int = 1, network_score: bool = False) -> None:
        check_range("top_k", top_k, 1)
        self.top_k = top_k
        self.network_score = network_score

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return map and score."""
        if self.network_score:
            anomaly_map, score = network.map_and_score(inputs, *args, **kwargs)  # type: ignore[attr-defined]
        else:
            anomaly_map = network(inputs, *args, **kwargs)
            score = anomaly_score(anomaly_map, self.top_k)
        return {ANOMALY_MAP: anomaly_map, ANOMALY_SCORE: score}
