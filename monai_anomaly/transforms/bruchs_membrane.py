"""Bruch's membrane in OCT: the lower edge of the retina's last bright band, smooth below drusen and detachments."""

from __future__ import annotations

import numpy as np
import torch
from monai.utils import convert_to_tensor
from numpy.polynomial import legendre
from scipy import ndimage
from torch import Tensor

from monai_anomaly.checks import check_range

_BINS = 128  # A-scans are averaged into about as many
_BAND = 0.03  # of the rows: what is compared above and below an edge
_SCALE = 0.003  # of the rows: how far a healthy membrane strays from a smooth curve
_STIFFNESS = 300.0  # of that curve, in bins: it bends over a tenth of the B-scan
_PADDED = 0.1  # of a B-scan's A-scans: as many that end in one value are padding
_DIM = 0.8  # of a band's brightness: dimmer is what ends at the padding, and not the epithelium
_DEEPER = 0.6  # weight of rows below the curve, against 0.4 above: drusen and detachments lift the bright band


def estimate_bruchs_membrane(
    image: Tensor, depth_axis: int = 0, mask: Tensor | None = None, min_contrast: float = 0.08
) -> Tensor:
    """Return the row of Bruch's membrane for every A-scan.

    Along the A-scans, brightness above is compared with brightness below; the best continuous path through these
    differences is the lower edge of the pigment epithelium (dynamic programming, all B-scans at once); a stiff curve
    through it, fitted again and again with less weight for what it misses, bridges what drusen and detachments lift.
    Where A-scans end in one value, as flattened or padded ones do, the choroid's end there is no membrane.

    Cost: linear in the voxels; 0.4 s for 496 x 512 x 49 on one core, two to three times that where there is padding.

    Args:
        image: (C, rows, A-scans) or (C, rows, A-scans, B-scans), any scale; channels are averaged.
        depth_axis: spatial axis along which A-scans run; 0 as above.
        mask: where the image shows something, of one channel; None for everywhere (see `fill_mask`).
        min_contrast: of the edge, over the B-scan's 99th percentile, below which no membrane is seen, in [0, 1).

    Shape:
        output (A-scans,) or (A-scans, B-scans), float32, in rows from 0; NaN for B-scans that show no membrane.

    Raises:
        ValueError: fewer than 32 rows or 16 A-scans, or arguments out of range.
    """
    check_range("min_contrast", min_contrast, 0, 1)
    depth, others = _split(image, depth_axis)
    check_range("rows of an A-scan", depth, 32)
    check_range("A-scans of a B-scan", others[0], 16)
    binned = light, weight, step = _binned(image, depth_axis, mask)
    rows = _lower_edge(*binned, min_contrast)
    padding = _padding(image, depth_axis)
    if padding is not None:
        shown = ~padding if mask is None else ~padding & (convert_to_tensor(mask)[:1].cpu() > 0)
        inner = _lower_edge(*_binned(image, depth_axis, shown), min_contrast)
        apart = np.abs(rows - inner) > _BAND * depth
        dim = _brightness(rows, light, weight) < _DIM * _brightness(inner, light, weight)
        wrong = (apart & dim).sum(0) > apart.sum(0) / 2
        rows = np.where(wrong | np.isnan(rows).any(0), inner, rows)
    curve = _smooth_curve(rows, max(1.0, depth * _SCALE))
    return torch.from_numpy(_at_every_a_scan(curve, step, others[0])).reshape(others).to(image.device)


def estimate_inner_surface(image: Tensor, membrane: Tensor, depth_axis: int = 0, mask: Tensor | None = None) -> Tensor:
    """Return the row of the retina's inner surface, the first edge from dark to bright, for every A-scan.

    Args:
        image: see `estimate_bruchs_membrane`.
        membrane: rows of Bruch's membrane; the surface is looked for above.
        depth_axis: see `estimate_bruchs_membrane`.
        mask: see `estimate_bruchs_membrane`.

    Shape:
        as `estimate_bruchs_membrane`; NaN where the membrane is.
    """
    depth, others = _split(image, depth_axis)
    below = convert_to_tensor(membrane).float().reshape(others[0], -1).cpu().numpy()
    light, weight, step = _binned(image, depth_axis, mask)
    total, count = _sums(light, weight)
    contrast = _contrast(total, count, max(3, round(_BAND * depth)))
    limit = np.nan_to_num(below[step // 2 :: step][: light.shape[1]], nan=depth)
    gain = np.where(np.arange(depth)[:, None, None] < limit - _BAND * depth, -contrast * (1 - _share(total)) ** 2, -1)
    rows = _path(gain, max(2, step), bend=0.005).astype(float) - 0.5
    rows[:, np.isnan(below).all(0)] = np.nan
    return torch.from_numpy(_at_every_a_scan(rows, step, others[0])).reshape(others).to(image.device)


def _split(image: Tensor, depth_axis: int) -> tuple[int, list[int]]:
    """Return how many rows an image has, and its other axes."""
    return image.shape[depth_axis + 1], [n for axis, n in enumerate(image.shape[1:]) if axis != depth_axis]


def _binned(image: Tensor, depth_axis: int, mask: Tensor | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Return means over a few A-scans, in [0, 1], how much of them counts, and how many A-scans a bin has.

    Both are (rows, bins, B-scans), float32; the weight is (rows, 1, 1) where all of them do.
    """
    plain = convert_to_tensor(image)
    scans = (plain[0] if len(plain) == 1 else plain.float().mean(0)).movedim(depth_axis, 0).cpu()
    step = max(1, scans.shape[1] // _BINS)

    def mean(values: Tensor) -> Tensor:
        bins = values.shape[1] // step
        return values[:, : bins * step].reshape(len(values), bins, step, -1).float().mean(2)

    light = mean(scans)
    weight = light.new_ones(len(light), 1, 1)
    seen = None if mask is None else convert_to_tensor(mask)[0].movedim(depth_axis, 0).cpu() > 0
    if not bool(torch.isfinite(light).all()):
        finite = torch.isfinite(scans)
        seen = finite if seen is None else seen & finite
    if seen is not None and not bool(seen.all()):
        weight = mean(seen)
        light = mean(torch.where(seen, scans, 0)) / weight.clamp(min=1e-6)
    values = light.numpy()
    low, high = np.percentile(values[::4], [1, 99], axis=(0, 1)).astype(np.float32)
    values = np.clip((values - low) / np.maximum(high - low, np.finfo(np.float32).tiny), 0, 1)
    return ndimage.convolve1d(values, [0.25, 0.5, 0.25], axis=1, mode="nearest"), weight.numpy(), step


def _sums(light: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what lies above each row's upper edge, light and weight, (rows + 1, bins, B-scans)."""

    def above(values: np.ndarray) -> np.ndarray:
        return np.concatenate((np.zeros_like(values[:1]), np.cumsum(values, 0)))

    return above(light * weight), above(weight)


def _contrast(total: np.ndarray, count: np.ndarray, band: int) -> np.ndarray:
    """Return brightness of the rows above each row less that below, 0 where too few of them count.

    Args:
        total: see `_sums`.
        count: see `_sums`.
        band: rows that are compared.
    """
    rows = np.arange(len(total) - 1)
    first, last = np.maximum(rows - band, 0), np.minimum(rows + band, len(rows))
    above, below = count[rows] - count[first], count[last] - count[rows]
    difference = (total[rows] - total[first]) / np.maximum(above, 1e-6)
    difference -= (total[last] - total[rows]) / np.maximum(below, 1e-6)
    return np.where(np.minimum(above, below) < 0.9 * band, 0, difference)


def _share(total: np.ndarray) -> np.ndarray:
    """Return the share of an A-scan's light that lies above each row."""
    return np.asarray(total[:-1] / np.maximum(total[-1:], 1e-6))


def _path(gain: np.ndarray, reach: int, bend: float = 0.02) -> np.ndarray:
    """Return the path of rows with the greatest gain, at most ``reach`` rows from bin to bin, each at a cost.

    Args:
        gain: (rows, bins, B-scans).
        reach: rows.
        bend: cost of a row.
    """
    depth, bins, count = gain.shape
    moves = sorted(range(-reach, reach + 1), key=abs)
    best = gain[:, 0].copy()
    came = np.zeros((bins, depth, count), np.int8)
    for bin_ in range(1, bins):
        total = np.full_like(best, -np.inf)
        for move in moves:
            to, source = slice(max(move, 0), depth + min(move, 0)), slice(max(-move, 0), depth + min(-move, 0))
            other = best[source] - bend * abs(move)
            better = other > total[to]
            total[to] = np.where(better, other, total[to])
            came[bin_, to][better] = move
        best = total + gain[:, bin_]
    rows = np.empty((bins, count), int)
    rows[-1] = best.argmax(0)
    for bin_ in range(bins - 1, 0, -1):
        rows[bin_ - 1] = rows[bin_] - came[bin_, rows[bin_], np.arange(count)]
    return rows


def _lower_edge(light: np.ndarray, weight: np.ndarray, step: int, min_contrast: float) -> np.ndarray:
    """Return the rows (bins, B-scans) of the epithelium's lower edge, NaN for B-scans without one."""
    band = max(3, round(_BAND * len(light)))
    total, count = _sums(light, weight)
    wide, fine = _contrast(total, count, band), _contrast(total, count, max(2, band // 3))
    rows = _path((wide + fine) * _share(total), max(2, step))
    found = np.median(np.take_along_axis(wide, rows[None], 0)[0], 0) >= min_contrast
    return np.where(found, _refined(fine, rows, max(2, band // 3)), np.nan)


def _padding(image: Tensor, depth_axis: int) -> Tensor | None:
    """Return where A-scans end in rows of one value, (1, ...) on the image's grid; None where few of any B-scan do."""
    scans = convert_to_tensor(image).movedim(depth_axis + 1, 1).cpu()
    depth = scans.shape[1]
    constant = (scans[:, -max(3, round(_BAND * depth)) :] == scans[:, -1:]).all(0).all(0)
    padded = constant & (constant.float().mean(0) >= _PADDED)
    if not bool(padded.any()):
        return None
    differs = (scans != scans[:, -1:]).any(0).flip(0)
    length = torch.where(differs.any(0), differs.to(torch.uint8).argmax(0), depth)
    below = torch.arange(depth, 0, -1).reshape(-1, *(1,) * length.ndim) <= length
    return (below & padded).movedim(0, depth_axis)[None]


def _brightness(rows: np.ndarray, light: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the brightness of the band above rows, as these (bins, B-scans), NaN where they are."""
    band = max(3, round(_BAND * len(light)))
    last = np.clip(np.floor(np.nan_to_num(rows) + 1).astype(int), band, len(light))[None]  # an edge lies at e - 0.5
    total, count = (
        np.take_along_axis(one, last, 0) - np.take_along_axis(one, last - band, 0)
        for one in (np.broadcast_to(every, (len(every), *rows.shape)) for every in _sums(light, weight))
    )
    return np.asarray(np.where(np.isnan(rows), np.nan, (total / np.maximum(count, 1e-6))[0]))


def _refined(contrast: np.ndarray, rows: np.ndarray, reach: int) -> np.ndarray:
    """Return the rows of the strongest edge nearby, to a fraction of a row; an edge lies between two pixels."""
    offsets = np.arange(-reach, reach + 1)
    index = np.clip(rows + offsets[:, None, None], 0, len(contrast) - 1)
    near = np.take_along_axis(contrast, index, 0)
    top = np.clip(near.argmax(0), 1, len(offsets) - 2)
    before, at, after = (np.take_along_axis(near, top[None] + move, 0)[0] for move in (-1, 0, 1))
    bow = before - 2 * at + after
    part = np.where(bow < 0, 0.5 * (before - after) / np.minimum(bow, -1e-9), 0)
    return np.asarray(rows + offsets[top] + np.clip(part, -0.5, 0.5) - 0.5)


def _smooth_curve(rows: np.ndarray, scale: float) -> np.ndarray:
    """Return curves (bins, B-scans) through rows, robust: a parabola, loose at first, then a stiff spline.

    Args:
        rows: (bins, B-scans); B-scans of NaN stay so.
        scale: in rows, see `_SCALE`.
    """
    rows = np.asarray(rows, dtype=float)
    bins = len(rows)
    whole = ~np.isnan(rows).any(0)
    target = rows[:, whole]
    curve = np.broadcast_to(np.median(target, 0), target.shape)
    basis = legendre.legvander(np.linspace(-1, 1, bins), 2)
    bends = np.diff(np.eye(bins), 2, axis=0)

    def weights(times: float) -> np.ndarray:
        off = target - curve
        return np.maximum(1e-5, np.where(off > 0, _DEEPER, 1 - _DEEPER) / (1 + (off / (times * scale)) ** 2) ** 2)

    for times in (30, 20, 12, 8, 5, 3, 2, 1.5, 1.5, 1.5):
        weight = weights(times)
        normal = np.einsum("wi,ws,wj->sij", basis, weight, basis)
        curve = basis @ np.linalg.solve(normal, np.einsum("wi,ws->si", basis, weight * target)[..., None])[..., 0].T
    for times in (3, 1.5, 1.5, 1.5):
        weight = 2 * weights(times)
        normal = _STIFFNESS * bends.T @ bends + weight.T[:, :, None] * np.eye(bins)
        curve = np.linalg.solve(normal, (weight * target).T[..., None])[..., 0].T
    result = np.full_like(rows, np.nan)
    result[:, whole] = curve
    return result


def _at_every_a_scan(rows: np.ndarray, step: int, width: int) -> np.ndarray:
    """Return rows (bins, B-scans) interpolated to all A-scans, float32."""
    position = (np.arange(width) - (step - 1) / 2) / step
    low = np.clip(position.astype(int), 0, max(len(rows) - 2, 0))
    part = (position - low)[:, None]
    return np.asarray((1 - part) * rows[low] + part * rows[np.minimum(low + 1, len(rows) - 1)], dtype=np.float32)
