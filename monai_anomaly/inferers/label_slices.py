"""A 2-D segmenter on every slice of a volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn

from monai_anomaly.checks import check_range
from monai_anomaly.keys import SEGMENTATION
from monai_anomaly.networks.blocks.fused import fuse_batch_norm


class LabelSliceInferer(Inferer):
    """Segment an image, or the slices of a volume, and return labels, one byte per voxel.

    MONAI's SliceInferer keeps the logits of the whole volume, K floats per voxel; here a batch's logits become labels
    at once. Slices go in as channels-last batches, and with ``fuse`` through a copy of the network whose batch
    normalizations are part of its convolutions. On a CPU one slice at a time is the fastest: features stay in cache.

    Args:
        sw_batch_size: slices per network call, at least 1.
        fuse: see `fuse_batch_norm`; made anew for each volume, where the network is a module in evaluation mode.
        amp: on a CPU, compute in bfloat16; for processors that have such units.
        min_in_plane_size: slices with a shorter side are refused: the axes are probably wrong.

    Shape:
        image (B, C, H, W) or volume (B, C, H, W, D), slices along the last axis; "segmentation" (B, 1, H, W) or
        (B, 1, H, W, D), uint8.

    Raises:
        ValueError: neither, or slices too small.
    """

    def __init__(
        self, sw_batch_size: int = 1, fuse: bool = True, amp: bool = False, min_in_plane_size: int = 32
    ) -> None:
        check_range("sw_batch_size", sw_batch_size, 1)
        self.sw_batch_size, self.fuse, self.amp = sw_batch_size, fuse, amp
        self.min_in_plane_size = min_in_plane_size

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the labels."""
        if inputs.ndim not in (4, 5) or min(inputs.shape[2:4]) < self.min_in_plane_size:
            msg = (
                f"LabelSliceInferer expects (B, C, H, W) or (B, C, H, W, D) with slices of at least "
                f"{self.min_in_plane_size} pixels a side, got {tuple(inputs.shape)}: check which axes are rows, "
                "A-scans and B-scans."
            )
            raise ValueError(msg)
        if self.fuse and isinstance(network, nn.Module) and not network.training:
            network = fuse_batch_norm(network)
        plain = convert_to_tensor(inputs)
        plain = plain[..., None] if inputs.ndim == 4 else plain
        labels = torch.empty((len(plain), 1, *plain.shape[2:]), dtype=torch.uint8, device=plain.device)
        with torch.autocast(plain.device.type, torch.bfloat16, enabled=self.amp and plain.device.type == "cpu"):
            for volume, out in zip(plain, labels, strict=True):
                for start in range(0, plain.shape[-1], self.sw_batch_size):
                    part = slice(start, start + self.sw_batch_size)
                    batch = volume[..., part].movedim(-1, 0).contiguous(memory_format=torch.channels_last)
                    found = network(batch, *args, **kwargs).max(1).indices  # seven times as fast as argmax here
                    out[0, ..., part] = found.movedim(0, -1).to(torch.uint8)
        labels = labels[..., 0] if inputs.ndim == 4 else labels
        return {SEGMENTATION: convert_to_dst_type(labels, inputs, dtype=torch.uint8)[0]}
