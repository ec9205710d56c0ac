"""One label per pixel from the fluids' labels and the retina's mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_same_grid

BACKGROUND, RETINA, FIRST_FLUID = 0, 1, 2


def tissue_classes(label: Tensor, retina: Tensor | None, fluid_values: Sequence[int] = (1, 2, 3)) -> Tensor:
    """Return 0 for background, 1 for retina, 2 and on for the fluids.

    Args:
        label: (1, ...), values of a label file.
        retina: (1, ...), above 0.5 where there is retina; None for none. Fluids come before retina.
        fluid_values: values of the fluids in the order of their classes (RETOUCH: 1 IRF, 2 SRF, 3 PED).

    Shape:
        output (1, ...), uint8.
    """
    plain = convert_to_tensor(label)
    classes = torch.zeros(plain.shape, dtype=torch.uint8, device=plain.device)
    if retina is not None:
        classes[convert_to_tensor(retina) > 0.5] = RETINA
    for number, value in enumerate(fluid_values, FIRST_FLUID):
        classes[plain == value] = number
    return classes


class TissueClasses(Transform):
    """Array version of `tissue_classes`, whose arguments it shares."""

    def __init__(self, fluid_values: Sequence[int] = (1, 2, 3)) -> None:
        self.fluid_values = tuple(fluid_values)

    def __call__(self, label: Tensor, retina: Tensor | None = None) -> Tensor:
        """Return the classes.

        Raises:
            ValueError: a retina on another grid.
        """
        if retina is not None:
            check_same_grid("The retina's mask", label, retina)
        return convert_to_dst_type(tissue_classes(label, retina, self.fluid_values), label, dtype=torch.uint8)[0]


class TissueClassesd(MapTransform):
    """Dictionary version of `TissueClasses`: labels under ``keys`` become classes; ``retina_key`` has the retina."""

    def __init__(
        self,
        keys: KeysCollection,
        fluid_values: Sequence[int] = (1, 2, 3),
        retina_key: str = "retina",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.retina_key = retina_key
        self.transform = TissueClasses(fluid_values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with classes."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key], result.get(self.retina_key))
        return result
