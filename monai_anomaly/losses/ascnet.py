"""The losses of ASC-Net (Dey et al. 2022, section 3.1, paragraph "Loss Functions").

D's labels are 1 for the reference distribution and -1 for fence cuts, as in the paper; the published code has them the
other way round, which is the same by tanh's symmetry, and is what ``real_label=-1`` gives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_anomaly.checks import check_option


class FenceLoss(nn.Module):
    """Loss_Cf = 1/n sum_i |D(I_fc^i) - 1|: the fence cut should pass for the reference. In [0, 2].

    Args:
        real_label: what D answers for the reference, 1 or -1.

    Shape:
        D's judgments (B,), output ().
    """

    def __init__(self, real_label: float = 1.0) -> None:
        super().__init__()
        self.real_label = check_option("real_label", real_label, (1.0, -1.0))

    def forward(self, judgments: Tensor) -> Tensor:
        """Return the loss."""
        return (judgments - self.real_label).abs().mean()


class DisjointnessLoss(nn.Module):
    """Loss_Cw = 2 |I_fc and I_wc| / (|I_fc| + |I_wc|), a soft Dice over the whole batch, to be made small. In [0, 1].

    Args:
        smooth: added above and below (published code: 1).
        binarized: count every value above 0 as 1, as the published code does in the second stage; then nothing flows
            back.

    Shape:
        fence and wild cuts (B, 1, H, W), output ().
    """

    def __init__(self, smooth: float = 1.0, binarized: bool = False) -> None:
        super().__init__()
        self.smooth = smooth
        self.binarized = binarized

    def forward(self, fence: Tensor, wild: Tensor) -> Tensor:
        """Return the loss."""
        if self.binarized:
            fence, wild = (fence > 0).to(fence.dtype), (wild > 0).to(wild.dtype)
        shared = (fence * wild).sum(dtype=torch.float32)
        both = fence.sum(dtype=torch.float32) + wild.sum(dtype=torch.float32)
        return (2 * shared + self.smooth) / (both + self.smooth)


class CutReconstructionLoss(nn.Module):
    """Loss_R = 1/n sum_i ||I_in^i - I_ro^i||^2: both cuts together should hold the image.

    Args:
        reduction: "sum", over an image's pixels as the paper writes it, or "mean", as the published code has it;
            summed, it is H W times as large and drowns the other losses.

    Shape:
        image (B, C, H, W), whose channels are averaged, reconstruction (B, 1, H, W), output ().
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_option("reduction", reduction, ("mean", "sum"))

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Return the loss."""
        squares = (images.mean(1, keepdim=True) - reconstruction).square().flatten(1)
        return squares.mean() if self.reduction == "mean" else squares.sum(1).mean()


class CutDiscriminatorLoss(nn.Module):
    """Loss_D = 1/(n+m) (sum_i |D(I_fc^i) + 1| + sum_i |D(I_rd^i) - 1|). In [0, 2]; 0 for a perfect D, 1 for D = 0.

    Args:
        real_label: what D should answer for the reference, 1 or -1; fence cuts have the other sign.

    Shape:
        judgments of cuts (n,) and of reference images (m,), output ().
    """

    def __init__(self, real_label: float = 1.0) -> None:
        super().__init__()
        self.real_label = check_option("real_label", real_label, (1.0, -1.0))

    def forward(self, of_cuts: Tensor, of_reference: Tensor) -> Tensor:
        """Return the loss."""
        return torch.cat((of_cuts + self.real_label, of_reference - self.real_label)).abs().mean()
