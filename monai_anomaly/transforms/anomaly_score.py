"""One score per image, or per slice, from an anomaly map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.keys import ANOMALY_SCORE


def anomaly_score(anomaly_map: Tensor, top_k: int = 1) -> Tensor:
    """Return the mean of the ``top_k`` highest pixels of each image; 1 is the maximum.

    Niu et al. 2023 take the maximum (ReSAD, section 3.3) or the mean of the ten highest pixels (ReSynthDetect).

    Args:
        anomaly_map: (B, 1, ...), finite.
        top_k: pixels to average, at least 1; all of them where an image has fewer.

    Shape:
        output (B,).

    Raises:
        ValueError: top_k < 1, or a map with NaN.
    """
    check_range("top_k", top_k, 1)
    flat = convert_to_tensor(anomaly_map).flatten(1)
    if bool(flat.isnan().any()):
        msg = "The anomaly map holds NaN: no score can be given."
        raise ValueError(msg)
    return flat.topk(min(top_k, flat.shape[1]), dim=1).values.mean(1)


class AnomalyScore(Transform):
    """Score one image's map, see `anomaly_score`, or each slice of a volume's.

    Args:
        top_k: pixels to average, at least 1.
        slice_axis: spatial axis along which slices follow one another; None for one score of the whole map.

    Shape:
        input (1, ...), output (), or (slices,).

    Raises:
        ValueError: top_k < 1, or no such axis.
    """

    def __init__(self, top_k: int = 1, slice_axis: int | None = None) -> None:
        check_range("top_k", top_k, 1)
        if slice_axis is not None:
            check_option("slice_axis", slice_axis, (0, 1, 2))
        self.top_k, self.slice_axis = top_k, slice_axis

    def __call__(self, data: Tensor) -> Tensor:
        """Return the score, or the scores."""
        if self.slice_axis is None:
            return anomaly_score(data[None], self.top_k)[0]
        return anomaly_score(convert_to_tensor(data).movedim(self.slice_axis + 1, 0), self.top_k)


class AnomalyScored(MapTransform):
    """Dictionary version of `AnomalyScore`.

    Args:
        keys: of the maps.
        top_k: pixels to average, at least 1.
        slice_axis: see `AnomalyScore`.
        score_keys: where the scores go, as many as keys.
        allow_missing_keys: do nothing where a key is missing.

    Raises:
        ValueError: top_k < 1, no such axis, or as many score keys as keys are not given.
    """

    def __init__(
        self,
        keys: KeysCollection,
        top_k: int = 1,
        slice_axis: int | None = None,
        score_keys: KeysCollection = ANOMALY_SCORE,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.score_keys = (score_keys,) if isinstance(score_keys, str) else tuple(score_keys)
        if len(self.score_keys) != len(self.keys):
            msg = f"score_keys must be as many as keys ({len(self.keys)}), got {len(self.score_keys)}."
            raise ValueError(msg)
        self.transform = AnomalyScore(top_k, slice_axis)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the scores added."""
        result = dict(data)
        for key, score_key in self.key_iterator(result, self.score_keys):
            result[score_key] = self.transform(result[key])
        return result
