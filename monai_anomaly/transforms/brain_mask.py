"""Where the brain is in a head MRI, found by intensity and shape alone: good enough where no better mask is at hand."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own habit
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_range
from monai_anomaly.transforms.content_mask import background_value

_WORK_SPACING_MM = 2.0
_RIM_MM = 3.0  # of fluid between what the threshold finds and the brain's outline, less than to the scalp


def brain_mask(image: Tensor, erosion_mm: float = 5.0, spacing_mm: Sequence[float] | None = None) -> Tensor:
    """Return the brain's mask: Otsu's threshold, opening to part brain from scalp, the central piece, holes filled.

    Skull-stripped images come back as their own outline. Trained tools (HD-BET, SynthStrip) are better; hand their
    masks in where you have them.

    Args:
        image: (1, I, J, K), a head or a stripped brain; only the first of several channels is looked at.
        erosion_mm: how deep the opening cuts: more than half the bridges of vessels and meninges, in mm.
        spacing_mm: of the voxels; by default from the image's affine, else 1 mm.

    Shape:
        output (1, I, J, K), uint8 in {0, 1}.

    Raises:
        ValueError: not a volume, an erosion that is not positive, or nothing found.
    """
    check_range("erosion_mm", erosion_mm, 0, low_open=True)
    plain = convert_to_tensor(image)
    if plain.ndim != 4:
        msg = f"brain_mask expects a volume (1, I, J, K), got {tuple(plain.shape)}."
        raise ValueError(msg)
    volume = plain[0].float().cpu().numpy()
    low, high = np.percentile(volume, [0.5, 99.5])
    source = sitk.GetImageFromArray(np.clip(volume, low, high) - low)
    source.SetSpacing([float(value) for value in reversed(_spacing_of(image, spacing_mm))])
    piece = _central_piece(_coarse(source), erosion_mm)
    mask = sitk.Resample(piece, source, sitk.Transform(), sitk.sitkNearestNeighbor)
    found = torch.from_numpy(sitk.GetArrayFromImage(mask).astype(np.uint8) & (volume > background_value(plain[:1])))[
        None
    ]
    if not bool(found.any()):
        msg = "No brain found; lower erosion_mm, or hand in a mask of another tool."
        raise ValueError(msg)
    return convert_to_dst_type(found, image, dtype=torch.uint8)[0]


def _spacing_of(image: Tensor, spacing_mm: Sequence[float] | None) -> list[float]:
    if spacing_mm is not None:
        return [float(value) for value in spacing_mm]
    affine = getattr(image, "affine", None)
    if affine is None:
        return [1.0, 1.0, 1.0]
    return [float(value) for value in torch.linalg.vector_norm(convert_to_tensor(affine).double()[:3, :3], dim=0)]


def _coarse(source: Any) -> Any:
    """Return the volume at about 2 mm, smoothed: the brain's outline needs no more, and it is eight times as fast."""
    size, spacing = source.GetSize(), source.GetSpacing()
    new = [max(1, round(n * s / max(s, _WORK_SPACING_MM))) for n, s in zip(size, spacing, strict=True)]
    ratio = [n * s / m for n, s, m in zip(size, spacing, new, strict=True)]
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(source, sitk.sitkFloat32), 1.0)
    origin = [(r - s) / 2 for r, s in zip(ratio, spacing, strict=True)]  # the corner stays where it is
    return sitk.Resample(
        smooth, new, sitk.Transform(), sitk.sitkLinear, origin, ratio, source.GetDirection(), 0.0, sitk.sitkFloat32
    )


def _central_piece(coarse: Any, erosion_mm: float) -> Any:
    tissue = sitk.OtsuThreshold(coarse, 0, 1, 128)
    seed = sitk.BinaryErode(tissue, _radius(coarse, erosion_mm), sitk.sitkBall, 0.0, 1.0, False)
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(seed), sortByObjectSize=True)
    brain = sitk.Equal(pieces, 1)
    brain = sitk.BinaryDilate(brain, _radius(coarse, erosion_mm + _WORK_SPACING_MM), sitk.sitkBall, 0.0, 1.0, False)
    brain = sitk.And(brain, tissue)
    padded = sitk.ConstantPad(brain, [8] * 3, [8] * 3, 0)
    closed = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(padded, _radius(coarse, 8.0)))
    rim = sitk.BinaryDilate(closed, _radius(coarse, _RIM_MM), sitk.sitkBall, 0.0, 1.0, False)
    return sitk.Crop(rim, [8] * 3, [8] * 3)


def _radius(image: Any, mm: float) -> list[int]:
    return [max(1, round(mm / spacing)) for spacing in image.GetSpacing()]


class BrainMask(Transform):
    """Array version of `brain_mask`, whose arguments and errors it shares."""

    def __init__(self, erosion_mm: float = 5.0, spacing_mm: Sequence[float] | None = None) -> None:
        check_range("erosion_mm", erosion_mm, 0, low_open=True)
        self.erosion_mm = erosion_mm
        self.spacing_mm = spacing_mm

    def __call__(self, data: Tensor) -> Tensor:
        """Return the mask."""
        return brain_mask(data, self.erosion_mm, self.spacing_mm)


class BrainMaskd(MapTransform):
    """Dictionary version of `BrainMask`: adds the masks under ``mask_key`` (one key) or ``<key>_<mask_key>``."""

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "brain",
        erosion_mm: float = 5.0,
        spacing_mm: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.transform = BrainMask(erosion_mm, spacing_mm)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the masks added."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[self.mask_key if len(self.keys) == 1 else f"{key}_{self.mask_key}"] = self.transform(data[key])
        return result
