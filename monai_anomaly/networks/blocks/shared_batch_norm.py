"""Batch normalization of a batch that several processes share."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from monai_anomaly import ranks


class SharedBatchNorm(nn.BatchNorm2d):
    """torch's BatchNorm2d whose statistics in training are those of all processes' images.

    torch's own SyncBatchNorm has no CPU; `share_batch_norm` takes it where there is a GPU.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, H, W) normalized by mean and variance of all processes, weighted and shifted."""
        if not self.training or ranks.count() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        values = input.double()  # sums of squares
        count = torch.full_like(values[:1, :, 0, 0].flatten(), values.numel() / values.shape[1])
        sums = torch.stack((values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count))
        total, squares, count = _Sum.apply(sums)  # type: ignore[no-untyped-call]
        mean, variance = total / count, squares / count - (total / count).square()
        self._follow(mean.detach(), (variance * count / (count - 1)).detach())
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return input * scale[:, None, None].to(input) + shift[:, None, None].to(input)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        rate = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), rate)
        self.running_var.lerp_(variance.to(self.running_var), rate)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs, as often as it is asked for."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        del ctx
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return _Sum.apply(gradients[0])  # type: ignore[no-untyped-call]


def share_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Let every batch normalization in a module count the images of all processes; parameters stay the same objects.

    Args:
        module: changed in place.
        device: where it runs.
    """
    if ranks.count() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = SharedBatchNorm
