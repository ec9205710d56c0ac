"""Pictures of cuts and of their histogram."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from monai_anomaly.evaluation.figures import new_figure, save_figure

_TITLES = ("input", "fence cut", "wild cut", "reconstruction")


def save_cut_figure(file: Path, examples: Tensor, counts: np.ndarray, threshold: float, title: str) -> None:
    """Write images with their cuts above the histogram of the anomaly map (Dey et al. 2022, figures 2 to 4).

    Args:
        file: a PNG file.
        examples: (N, 4, H, W): input, fence cut, wild cut, reconstruction; the first three are drawn.
        counts: (bins,) of the map between 0 and 1.
        threshold: drawn as a line, NaN for none.
        title: above all.
    """
    shown = examples[:3]
    figure, axes = new_figure(4, (3.0, 3.0), len(shown) + 1)
    for row, example in zip(axes[:-1], shown, strict=True):
        for axis, picture in zip(row, example, strict=True):
            axis.imshow(picture.numpy().T, cmap="gray", origin="lower")
            axis.set_axis_off()
    for axis, name in zip(axes[0], _TITLES, strict=True):
        axis.set_title(name)
    grid = axes[-1, 0].get_gridspec()
    for axis in axes[-1]:
        axis.remove()
    histogram = figure.add_subplot(grid[-1, :])
    binned = counts.reshape(256, -1).sum(1)
    histogram.bar((np.arange(256) + 0.5) / 256, binned, width=1 / 256, color="0.4")
    if not math.isnan(threshold):
        histogram.axvline(threshold, color="#d62728", label=f"outermost peak, {threshold:.3f}")
        histogram.legend()
    histogram.set(yscale="symlog", xlim=(0, 1), xlabel="anomaly map", ylabel="pixels")
    figure.suptitle(f"{title} (each picture stretched to its own range)")
    save_figure(figure, file)
