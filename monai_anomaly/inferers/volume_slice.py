"""A 2-D detector on every slice of a volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_anomaly.checks import check_option, check_range
from monai_anomaly.keys import ANOMALY_MAP, ANOMALY_SCORE
from monai_anomaly.transforms.anomaly_score import anomaly_score
from monai_anomaly.transforms.resize_images import resize_images

PLANES = {"sagittal": "LR", "coronal": "AP", "axial": "SI"}
"""Planes by the two orientation codes of the axis that slices follow one another along."""


def find_slice_axis(slice_axis: int | str, affine: Any = None) -> int:
    """Return which of the voxel axes 0, 1, 2 slices follow one another along.

    Args:
        slice_axis: the axis itself, an orientation code (one of L R A P S I), or "sagittal", "coronal", "axial".
        affine: (4, 4) voxel to RAS+ mm, needed for a code or a plane.

    Raises:
        ValueError: no such axis, or a code or plane without an affine.
    """
    codes = "".join(PLANES.values())
    slice_axis = int(slice_axis) if str(slice_axis).isdigit() else slice_axis  # command lines give text
    check_option("slice_axis", slice_axis, (0, 1, 2, *codes, *PLANES))
    if not isinstance(slice_axis, str):
        return slice_axis
    if affine is None:
        msg = f"slice_axis {slice_axis!r} needs a volume with an affine; give the axis as 0, 1 or 2 instead."
        raise ValueError(msg)
    pair = PLANES.get(slice_axis) or next(pair for pair in PLANES.values() if slice_axis in pair)
    return next(i for i, code in enumerate(nib.aff2axcodes(convert_to_tensor(affine).cpu().numpy())) if code in pair)


class VolumeSliceInferer(SliceInferer):
    """Run a 2-D detector on each slice and return the map volume and a score per slice.

    MONAI's SliceInferer with whole slices, so that the result equals stacking the 2-D results; the axis may be given
    by anatomy, and slices that cannot be what the user means are refused.

    Args:
        slice_axis: 0, 1, 2, an orientation code, or "sagittal", "coronal", "axial", see `find_slice_axis`.
        image_size: height and width at which the network sees a slice; the map comes back at the slice's own size.
            None leaves slices as they are.
        top_k: pixels of a slice's map its score averages, at least 1.
        min_in_plane_size: slices with a shorter side are refused: the axis is probably wrong.
        in_plane_size: the expected size of a slice, None for any.
        in_plane_spacing_mm: the expected pixel spacing of a slice, None for any.
        tolerance_mm: by which the spacing may differ.
        sw_batch_size: slices per network call.
        progress: show a bar.

    Shape:
        volume (B, C, I, J, K); "anomaly_map" (B, 1, I, J, K), "anomaly_score" (B, number of slices).

    Raises:
        ValueError: an axis that does not exist or does not fit, or another in-plane size or spacing than expected.
    """

    def __init__(
        self,
        slice_axis: int | str = "axial",
        image_size: Sequence[int] | None = None,
        top_k: int = 1,
        min_in_plane_size: int = 32,
        in_plane_size: Sequence[int] | None = None,
        in_plane_spacing_mm: Sequence[float] | None = None,
        tolerance_mm: float = 1e-2,
        sw_batch_size: int = 1,
        progress: bool = False,
    ) -> None:
        find_slice_axis(slice_axis, torch.eye(4))
        check_range("top_k", top_k, 1)
        super().__init__(spatial_dim=2, roi_size=(-1, -1), sw_batch_size=sw_batch_size, overlap=0, progress=progress)
        self.slice_axis = slice_axis
        self.image_size = tuple(image_size) if image_size is not None else None
        self.top_k = top_k
        self.min_in_plane_size = min_in_plane_size
        self.in_plane_size = in_plane_size
        self.in_plane_spacing_mm = in_plane_spacing_mm
        self.tolerance_mm = tolerance_mm

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return map volume and slice scores."""
        if inputs.ndim != 5:
            msg = (
                f"VolumeSliceInferer expects (B, C, I, J, K), got {tuple(inputs.shape)}; images need AnomalyMapInferer."
            )
            raise ValueError(msg)
        affine = _affine_of(inputs)
        self.spatial_dim = self.axis_of(inputs)
        self._check_slices(inputs.shape[2:], affine)

        def on_slices(slices: Tensor) -> Tensor:
            size = slices.shape[-2:]
            resized = slices if self.image_size is None else resize_images(slices, self.image_size)
            return resize_images(network(resized, *args, **kwargs), size)

        anomaly_map = super().__call__(inputs, on_slices)
        return {ANOMALY_MAP: anomaly_map, ANOMALY_SCORE: self.slice_scores(anomaly_map)}

    def slice_scores(self, anomaly_map: Tensor) -> Tensor:
        """Return the scores (B, number of slices) of a map volume (B, 1, I, J, K)."""
        by_slice = convert_to_tensor(anomaly_map).movedim(self.spatial_dim + 2, 1)  # (B, slices, 1, ...)
        return anomaly_score(by_slice.flatten(0, 1), self.top_k).view(len(anomaly_map), -1)

    def axis_of(self, volume: Tensor) -> int:
        """Return the voxel axis, 0 to 2, that the slices of a volume (C, I, J, K) follow one another along."""
        return find_slice_axis(self.slice_axis, _affine_of(volume))

    def _check_slices(self, shape: Sequence[int], affine: Any) -> None:
        in_plane = [axis for axis in range(3) if axis != self.spatial_dim]
        size = [int(shape[axis]) for axis in in_plane]
        given = f"slice_axis {self.slice_axis!r} gives {shape[self.spatial_dim]} slices of {size[0]} x {size[1]}"
        if min(size) < self.min_in_plane_size:
            best = max(range(3), key=lambda axis: min(n for i, n in enumerate(shape) if i != axis))
            msg = f"{given}; expected sides of at least {self.min_in_plane_size}: did you mean slice_axis {best}?"
            raise ValueError(msg)
        if self.in_plane_size is not None and size != list(self.in_plane_size):
            expected = " x ".join(map(str, self.in_plane_size))
            msg = f"{given}; expected {expected}: set slice_axis, or in_plane_size to what the data has."
            raise ValueError(msg)
        if self.in_plane_spacing_mm is None or affine is None:
            return
        spacing = torch.linalg.vector_norm(convert_to_tensor(affine).double()[:3, :3], dim=0)[in_plane].tolist()
        if any(abs(a - b) > self.tolerance_mm for a, b in zip(spacing, self.in_plane_spacing_mm, strict=True)):
            came = " x ".join(f"{value:.4g}" for value in spacing)
            expected = " x ".join(f"{value:.4g}" for value in self.in_plane_spacing_mm)
            msg = (
                f"{given} with a spacing of {came} mm; expected {expected} mm: resample (Spacingd), or set slice_axis."
            )
            raise ValueError(msg)


def _affine_of(volume: Tensor) -> Tensor | None:
    if not isinstance(volume, MetaTensor):
        return None
    return volume.affine[0] if volume.affine.ndim == 3 else volume.affine
