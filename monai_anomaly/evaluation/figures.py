"""Pictures: overlays, case figures, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from torch import Tensor

from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.map_evaluation import Case
from monai_anomaly.metrics.curves import Curve

_MAX_SIDE = 800  # pixels of a panel's longer side
_COLOR_MAP = "inferno"  # perceptually uniform, readable by color-blind people
_LABEL_COLORS = ["#4477aa", "#ee6677", "#ccbb44", "#228833", "#aa3377", "#66ccee"]  # Paul Tol's bright scheme
_TRUTH, _PREDICTION = "#00d0ff", "#ffffff"


def new_figure(num_columns: int, panel: tuple[float, float] = (4.0, 4.0), num_rows: int = 1) -> tuple[Any, Any]:
    """Return a figure that needs no display and its axes, (columns,) or (rows, columns); ``panel`` is in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel[0] * num_columns, panel[1] * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.atleast_1d(figure.subplots(num_rows, num_columns))


def save_figure(figure: Any, file: Path, dpi: int = 110) -> None:
    """Write a figure, whole or not at all."""
    write_atomically(file, lambda path: figure.savefig(path, dpi=dpi))


def rows_run_up(affine: Any, slice_axis: int) -> bool:
    """Whether the rows of a volume's slice run toward the front or the top, so that a picture has to turn them over."""
    row_axis = 1 if slice_axis == 2 else 2
    direction = np.asarray(affine, dtype=float)[:3, row_axis]
    return bool(direction[np.abs(direction).argmax()] > 0)


def show_slice(array: Tensor, slice_axis: int, index: int, *, flip: bool = False) -> np.ndarray:
    """Return a slice, or the image itself, as (H, W, C), thinned to a panel's size; ``flip`` turns rows over."""
    picture = array if array.ndim == 3 else array.select(slice_axis + 1, index).transpose(1, 2)
    if flip and array.ndim == 4:
        picture = picture.flip(1)
    step = max(1, -(-max(picture.shape[1:]) // _MAX_SIDE))
    return picture[:, ::step, ::step].movedim(0, -1).float().numpy()


def _gray_or_color(picture: np.ndarray) -> np.ndarray:
    low, high = np.percentile(picture, [0.5, 99.5])
    scaled = np.clip((picture - low) / max(high - low, 1e-12), 0, 1)
    return scaled if picture.shape[2] == 3 else np.repeat(scaled.mean(2, keepdims=True), 3, 2)


def most_anomalous_slice(anomaly_map: Tensor, label: Tensor | None, slice_axis: int) -> int:
    """Return the slice with the most labeled pixels, else the one with the highest mean map; 0 for an image."""
    if anomaly_map.ndim == 3:
        return 0
    other = [axis for axis in range(4) if axis != slice_axis + 1]
    if label is not None and bool((label > 0).any()):
        return int((label > 0).sum(other).argmax())
    return int(anomaly_map.mean(other).argmax())


def save_overlay(file: Path, image: Tensor, calibrated: Tensor, slice_axis: int = 2, *, flip: bool = False) -> None:
    """Write the input beside the input under its map.

    Args:
        file: a PNG file.
        image: (C, H, W) or (C, I, J, K), any scale.
        calibrated: (1, ...) in [0, 1].
        slice_axis: of volumes.
        flip: turn a slice's rows over, see `rows_run_up`.
    """
    index = most_anomalous_slice(calibrated, None, slice_axis)
    picture = _gray_or_color(show_slice(image, slice_axis, index, flip=flip))
    heat = show_slice(calibrated, slice_axis, index, flip=flip)[..., 0]
    figure, axes = new_figure(2)
    for axis in axes:
        axis.imshow(picture)
        axis.set_axis_off()
    shown = axes[1].imshow(heat, cmap=_COLOR_MAP, vmin=0, vmax=1, alpha=0.2 + 0.6 * heat)
    figure.colorbar(shown, ax=axes[1], shrink=0.8, label="0 ordinary, 1 beyond healthy")
    if image.ndim == 4:
        axes[0].set_title(f"slice {index}")
    save_figure(figure, file)


def save_case_figure(file: Path, case: Case, calibrated: Tensor, prediction: Tensor | None = None) -> None:
    """Write input, map, outlines of the truth and of the prediction (by default the map beyond most healthy pixels)."""
    index = most_anomalous_slice(case.anomaly_map, case.label, case.slice_axis)
    picture = _gray_or_color(show_slice(case.image, case.slice_axis, index, flip=case.flip))
    heat = show_slice(calibrated, case.slice_axis, index, flip=case.flip)[..., 0]
    truth = show_slice(case.label, case.slice_axis, index, flip=case.flip)[..., 0] > 0
    found = heat >= 1
    if prediction is not None:
        found = show_slice(prediction, case.slice_axis, index, flip=case.flip)[..., 0] > 0
    figure, axes = new_figure(4, (4.0, 3.4))
    titles = ("input" if case.image.ndim == 3 else f"input, slice {index}", "anomaly map", "truth", "prediction")
    for axis, title in zip(axes, titles, strict=True):
        axis.imshow(picture)
        axis.set_title(title)
        axis.set_axis_off()
    axes[1].images[0].remove()
    shown = axes[1].imshow(heat, cmap=_COLOR_MAP, vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes[1], shrink=0.7)
    for axis, mask, color in ((axes[2], truth, _TRUTH), (axes[3], found, _PREDICTION)):
        if mask.any() and not mask.all():
            axis.contour(mask, levels=[0.5], colors=color, linewidths=0.8)
    figure.suptitle(f"{Path(case.name).name}, score {max(case.scores):.4g}", fontsize=10)
    save_figure(figure, file)


def save_side_by_side(file: Path, case: Case, maps: Mapping[str, Tensor]) -> None:
    """Write a case's most lesioned slice beside its truth and the maps of several detectors, each on its own scale.

    Args:
        file: a PNG file.
        case: whose label tells the slice.
        maps: (1, ...) on the case's grid, by detector.
    """
    index = most_anomalous_slice(case.label, case.label, case.slice_axis)
    picture = _gray_or_color(show_slice(case.image, case.slice_axis, index, flip=case.flip))
    truth = show_slice(case.label, case.slice_axis, index, flip=case.flip)[..., 0] > 0
    shape = picture.shape[0] / picture.shape[1]
    rows = -(-(1 + len(maps)) // 5)
    figure, axes = new_figure(min(5, 1 + len(maps)), (3.2, 3.2 * shape + 0.3), rows)
    flat = axes.ravel()
    for axis in flat:
        axis.set_axis_off()
    flat[0].imshow(picture)
    flat[0].set_title("truth" if case.image.ndim == 3 else f"truth, slice {index}")
    for axis, (title, anomaly_map) in zip(flat[1:], maps.items(), strict=False):
        heat = show_slice(anomaly_map, case.slice_axis, index, flip=case.flip)[..., 0]
        low, high = np.percentile(heat, [1, 99.9])
        axis.imshow(heat, cmap=_COLOR_MAP, vmin=low, vmax=max(high, low + 1e-12))
        axis.set_title(title)
    for axis in flat[: 1 + len(maps)]:
        if truth.any() and not truth.all():
            axis.contour(truth, levels=[0.5], colors=_TRUTH, linewidths=0.8)
    save_figure(figure, file)


def save_curves(file: Path, curves: Mapping[str, Curve], areas: Mapping[str, tuple[float, float]]) -> None:
    """Write ROC and precision-recall curves of several methods.

    Args:
        file: a PNG file.
        curves: by method, the first drawn thick.
        areas: by method, AUROC and AUPR for the legend.
    """
    figure, (roc, recall_axis) = new_figure(2, (5.5, 4.6))
    for number, (name, curve) in enumerate(curves.items()):
        if not curve.num_positives or not curve.num_negatives:
            continue
        false, true = curve.rates()
        precision = curve.true_positives / (curve.true_positives + curve.false_positives)
        style = {"linewidth": 2.2 if number == 0 else 1.0, "alpha": 1.0 if number == 0 else 0.75}
        thin = np.unique(np.linspace(0, len(true) - 1, 2000).astype(int))
        roc.plot(false[thin], true[thin], label=f"{name} {areas[name][0]:.3f}", **style)
        thin = thin[thin > 0] - 1
        recall_axis.plot(true[1:][thin], precision[thin], label=f"{name} {areas[name][1]:.3f}", **style)
    roc.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":")
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC (area)")
    recall_axis.set(xlabel="recall", ylabel="precision", title="precision-recall (area)", xlim=(0, 1), ylim=(0, 1))
    for axis in (roc, recall_axis):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    save_figure(figure, file)


def save_label_figure(file: Path, picture: np.ndarray, columns: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Write a slice beside itself under labels.

    Args:
        file: a PNG file.
        picture: (H, W), any scale.
        columns: labels (H, W) by their titles, 0 for none.
        names: of the labels 1 and on.
    """
    gray = _gray_or_color(picture[..., None].astype(float))
    figure, axes = new_figure(1 + len(columns), (4.0, 4.0 * picture.shape[0] / picture.shape[1] + 0.3))
    colors = ListedColormap(_LABEL_COLORS[: max(1, len(names))])
    for axis, (title, labels) in zip(axes, {"input": None, **columns}.items(), strict=True):
        axis.imshow(gray)
        axis.set_axis_off()
        axis.set_title(title)
        if labels is not None:
            shown = np.ma.masked_equal(labels, 0)
            axis.imshow(shown, cmap=colors, vmin=0.5, vmax=len(names) + 0.5, alpha=0.55, interpolation="nearest")
    patches = [Patch(color=colors(index), label=name) for index, name in enumerate(names)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(names))
    save_figure(figure, file)


def save_lesion_maps(
    file: Path, picture: np.ndarray, maps: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
) -> None:
    """Write a slice, each kind of lesion's map over it, and labels.

    Args:
        file: a PNG file.
        picture: (H, W), any scale.
        maps: (H, W) in [0, 1] by their titles, one per kind.
        columns: labels (H, W) by their titles, 0 for none, kinds numbered as the maps.
    """
    gray = _gray_or_color(picture[..., None].astype(float))
    figure, axes = new_figure(1 + len(maps) + len(columns), (3.4, 3.4 * picture.shape[0] / picture.shape[1] + 0.4))
    for axis in axes:
        axis.imshow(gray)
        axis.set_axis_off()
    for axis, (title, heat) in zip(axes[1:], maps.items(), strict=False):
        axis.imshow(heat, cmap=_COLOR_MAP, vmin=0, vmax=1, alpha=0.2 + 0.6 * heat)
        axis.set_title(title, fontsize=9)
    colors = ListedColormap(_LABEL_COLORS[: max(1, len(maps))])
    for axis, (title, labels) in zip(axes[1 + len(maps) :], columns.items(), strict=True):
        shown = np.ma.masked_where((labels == 0) | (labels > len(maps)), labels)
        axis.imshow(shown, cmap=colors, vmin=0.5, vmax=len(maps) + 0.5, alpha=0.55, interpolation="nearest")
        axis.set_title(title, fontsize=9)
    patches = [Patch(color=colors(index), label=name.split(",")[0]) for index, name in enumerate(maps)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(maps), fontsize=8)
    save_figure(figure, file)


def save_sweep(file: Path, thresholds: np.ndarray, lines: Mapping[str, np.ndarray], chosen: float) -> None:
    """Write measures over thresholds, with the chosen one marked; the first line is drawn thick."""
    figure, (axis,) = new_figure(1, (5.5, 4.0))
    for number, (name, values) in enumerate(lines.items()):
        axis.plot(thresholds, values, label=name, linewidth=2.2 if number == 0 else 1.0)
    axis.axvline(chosen, color="0.5", linestyle=":", label=f"chosen: {chosen:.2f}")
    axis.set(xlabel="threshold", ylabel="intersection over union", xlim=(0, 1))
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    save_figure(figure, file)
