"""The two cuts and the reduced reconstruction of every slice of a volume."""

from __future__ import annotations

from typing import Any

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.inferers.volume_slice import VolumeSliceInferer
from monai_anomaly.keys import ANOMALY_MAP, ANOMALY_SCORE, FENCE_CUT, RECONSTRUCTION, WILD_CUT


class CutSliceInferer(VolumeSliceInferer):
    """Run an `ASCNet` on each slice and return its cuts beside the anomaly map.

    Outside the organ, where the image is 0, the map is 0: there the reconstruction says nothing of lesions.
    The arguments are those of `VolumeSliceInferer`.

    Shape:
        volume (B, C, I, J, K); "anomaly_map", "fence_cut", "wild_cut", "reconstruction" (B, 1, I, J, K),
        "anomaly_score" (B, number of slices).
    """

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return map, scores and cuts."""
        result = super().__call__(inputs, lambda slices: torch.cat(network.cuts(slices), 1), *args, **kwargs)
        fence, wild, reconstruction = torch.split(result[ANOMALY_MAP], 1, dim=1)
        inside = convert_to_tensor(inputs).amax(1, keepdim=True) > 0
        plain = network.map_of(convert_to_tensor(reconstruction)) * inside
        anomaly_map = convert_to_dst_type(plain, reconstruction)[0]
        return {
            ANOMALY_MAP: anomaly_map,
            ANOMALY_SCORE: self.slice_scores(anomaly_map),
            FENCE_CUT: fence,
            WILD_CUT: wild,
            RECONSTRUCTION: reconstruction,
        }
