"""Lesion masks from however many files a data set keeps them in: none, one, or one per kind of lesion."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_option, check_same_grid
from monai_anomaly.keys import FILE_READER


def lesion_mask(
    label: Tensor,
    values: Sequence[int] | None = None,
    polarity: str = "positive",
    lesions: Sequence[int] | None = None,
    *,
    kinds: bool = False,
) -> Tensor:
    """Return where a label file marks a lesion, or which kind.

    Args:
        label: (C, ...) as stored; more than one channel (an RGB mask) counts where any channel marks.
        values: every value the file may hold, the first of them the background; None for 0 and anything else.
        polarity: "positive": values other than the background mark; "auto": the value of most pixels is background,
            as some fundus sets store lesions black on white.
        lesions: the values that mark, where others mean healthy structures (LiTS: 2, while 1 is the liver); None for
            all but the background.
        kinds: return the values that mark instead of 1, the largest of the channels.

    Shape:
        output (1, ...), uint8 in {0, 1}, or with ``kinds`` in {0, values}.

    Raises:
        ValueError: a value that ``values`` does not know.
    """
    plain = convert_to_tensor(label)
    if values is not None:
        found = plain.unique()
        unknown = [f"{float(v):g}" for v in found if float(v) not in {float(known) for known in values}]
        if unknown:
            msg = (
                f"The label holds {', '.join(unknown[:5])}, expected only {', '.join(map(str, values))}; "
                f"add what it means to the data spec's label_values, or mend the file."
            )
            raise ValueError(msg)
    background: float = 0.0 if values is None else float(values[0])
    if polarity == "auto":
        background = float(plain.flatten().float().mode().values)
    marks = plain != background if lesions is None else torch.isin(plain.long(), torch.tensor(list(lesions)))
    if kinds:
        return torch.where(marks, plain, 0).amax(0, keepdim=True).to(torch.uint8)
    return marks.any(0, keepdim=True).to(torch.uint8)


class LoadLesionMask(Transform):
    """Load label files and return their union on the image's grid.

    Args:
        values: see `lesion_mask`.
        polarity: see `lesion_mask`.
        reader: handed to MONAI's LoadImage; by default `monai_anomaly.data.FileReader`.
        lesions: see `lesion_mask`.
        kinds: see `lesion_mask`.

    Raises:
        ValueError: unknown polarity or label values, or a mask on another grid than the image.
    """

    def __init__(
        self,
        values: Sequence[int] | None = None,
        polarity: str = "positive",
        reader: Any = None,
        lesions: Sequence[int] | None = None,
        *,
        kinds: bool = False,
    ) -> None:
        self.values = values
        self.lesions, self.kinds = lesions, kinds
        self.polarity = check_option("polarity", polarity, ("positive", "auto"))
        self.loader = LoadImage(reader=reader or FILE_READER, image_only=True, ensure_channel_first=True)

    def __call__(self, files: str | Path | Sequence[str | Path], image: Tensor) -> MetaTensor:
        """Return the union of the files' lesions, (1, ...) uint8; zeros where there are no files.

        Args:
            files: one file, several, or none.
            image: (C, ...) whose grid the masks have to lie on.
        """
        union = torch.zeros((1, *image.shape[1:]), dtype=torch.uint8)
        for file in [files] if isinstance(files, (str, Path)) else files:
            label = self.loader(file)
            mask = lesion_mask(label, self.values, self.polarity, self.lesions, kinds=self.kinds)
            mask = MetaTensor(mask, affine=label.affine) if isinstance(label, MetaTensor) else mask
            check_same_grid(f"The mask {Path(file).name}", image, mask)
            union = torch.maximum(union, convert_to_tensor(mask))
        affine = image.affine.clone() if isinstance(image, MetaTensor) else None
        return MetaTensor(union, affine=affine)


class LoadLesionMaskd(MapTransform):
    """Dictionary version of `LoadLesionMask`: replaces the files under the keys by their union.

    Args:
        keys: whose values are a file, a list of files, or missing (no lesion).
        ref_key: of the loaded image whose grid the masks lie on.
        values: see `lesion_mask`.
        polarity: see `lesion_mask`.
        reader: handed to MONAI's LoadImage; by default `monai_anomaly.data.FileReader`.
        lesions: see `lesion_mask`.
        kinds: see `lesion_mask`.
        allow_missing_keys: leave a missing key missing instead of making an empty mask.
    """

    def __init__(
        self,
        keys: KeysCollection,
        ref_key: str = "image",
        values: Sequence[int] | None = None,
        polarity: str = "positive",
        reader: Any = None,
        lesions: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
        *,
        kinds: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_key = ref_key
        self.transform = LoadLesionMask(values, polarity, reader, lesions, kinds=kinds)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with masks in place of files."""
        result = dict(data)
        for key in self.keys:
            if key in result or not self.allow_missing_keys:
                result[key] = self.transform(result.get(key, ()), result[self.ref_key])
        return result
