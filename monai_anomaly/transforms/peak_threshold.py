"""Segmentation by the outermost peak of a histogram.

Dey et al. 2022 (ASC-Net), section 3.1 "Thresholding T": the value at the rightmost peak for anomalies brighter than
their surroundings, at the leftmost for darker ones; one value for a data set, or one per subject (section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from scipy import ndimage, signal
from torch import Tensor

from monai_anomaly.checks import check_option, check_range, check_same_grid

NUM_BINS = 256
PEAKS = ("rightmost", "leftmost")


def histogram_peaks(counts: np.ndarray, sigma: float = 1.5, min_prominence: float = 5e-4) -> tuple[np.ndarray, int]:
    """Return the bins of a histogram's peaks, ascending, and how many of them stand apart.

    A peak stands apart where the histogram falls below half its height on both sides before anything higher comes.

    Args:
        counts: (bins,), not negative.
        sigma: of the smoothing in bins, 0 for none.
        min_prominence: of a peak, as a fraction of all counts.

    Raises:
        ValueError: fewer than two bins hold counts: the image is constant.
    """
    if np.count_nonzero(counts) < 2:
        msg = (
            "The histogram has no peak: all values are the same. Expected an image with content: "
            "check the mask, the intensity window, or the network's training; or give a threshold."
        )
        raise ValueError(msg)
    pad = 1 + int(4 * sigma)  # a peak may sit in the first or last bin
    heights = np.pad(counts / counts.sum(), pad)
    smooth = ndimage.gaussian_filter1d(heights, sigma, mode="constant") if sigma else heights
    peaks, found = signal.find_peaks(smooth, prominence=min(min_prominence, 0.5 * smooth.max()))
    apart = int((found["prominences"] >= 0.5 * smooth[peaks]).sum())
    return np.clip(peaks - pad, 0, len(counts) - 1), apart


def peak_of_histogram(
    counts: np.ndarray,
    low: float,
    high: float,
    peak: str = "rightmost",
    sigma: float = 1.5,
    min_prominence: float = 5e-4,
) -> tuple[float, int]:
    """Return the value at the outermost peak, and how many peaks stand apart.

    Args:
        counts: (bins,) between ``low`` and ``high``; empty bins at the ends are cut off and the rest made 256 bins,
            as the papers' 8-bit histograms are min-max scaled; many more bins than that keep the scaling smooth.
        low: lower edge of the first bin.
        high: upper edge of the last bin.
        peak: "rightmost" or "leftmost".
        sigma: see `histogram_peaks`.
        min_prominence: see `histogram_peaks`.

    Raises:
        ValueError: an unknown peak, or a constant image.
    """
    check_option("peak", peak, PEAKS)
    filled = np.flatnonzero(counts)
    width = (high - low) / len(counts)
    if len(filled) and filled[0] < filled[-1]:
        centers = low + (np.arange(len(counts)) + 0.5) * width
        low, high = float(centers[filled[0]]), float(centers[filled[-1]])
        num_bins = min(NUM_BINS, int(filled[-1] - filled[0]) + 1)  # more would leave gaps that look like valleys
        counts = np.histogram(centers, num_bins, (low, high), weights=counts)[0]
    peaks, apart = histogram_peaks(np.asarray(counts, dtype=float), sigma, min_prominence)
    chosen = peaks[-1] if peak == "rightmost" else peaks[0]
    return low + (high - low) * (float(chosen) + 0.5) / len(counts), apart


def peak_threshold(
    image: Tensor,
    mask: Tensor | None = None,
    peak: str = "rightmost",
    sigma: float = 1.5,
    min_prominence: float = 5e-4,
) -> float:
    """Return the value at the outermost peak of an image's histogram, in the image's units.

    Args:
        image: any shape.
        mask: the same shape, pixels that count; None for all.
        peak: "rightmost" or "leftmost".
        sigma: see `histogram_peaks`.
        min_prominence: see `histogram_peaks`.

    Raises:
        ValueError: a constant image, or an unknown peak.
    """
    plain = convert_to_tensor(image).float()
    values = plain.flatten() if mask is None else plain[convert_to_tensor(mask) > 0]
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    if low == high:
        histogram_peaks(np.ones(1))  # says what to do
    counts = torch.histc(values.cpu(), 16 * NUM_BINS, low, high).numpy()
    return peak_of_histogram(counts, low, high, peak, sigma, min_prominence)[0]


class HistogramPeakThreshold(Transform):
    """Mark the pixels at and beyond the outermost peak of the histogram.

    Args:
        peak: "rightmost": values at and above it are marked; "leftmost": at and below.
        invert: turn the image's values over first (max + min - value), so that dark lesions become the bright ones.
        threshold: in the units of the image, inverted where ``invert``, or a function that returns it, asked for each
            image; None finds the peak.
        threshold_255: the same on the scale of the papers, where the image's own range (within the mask) is 0 to 255.
        sigma: see `histogram_peaks`.
        min_prominence: see `histogram_peaks`.

    Shape:
        image (C, ...) and mask (any number of channels, ...); output uint8 in {0, 1}, the image's shape.

    Raises:
        ValueError: an unknown peak, both thresholds, one that is not a number, another grid, or a constant image.
    """

    def __init__(
        self,
        peak: str = "rightmost",
        invert: bool = False,
        threshold: float | Callable[[], float] | None = None,
        threshold_255: Any = None,
        sigma: float = 1.5,
        min_prominence: float = 5e-4,
    ) -> None:
        self.peak = check_option("peak", peak, PEAKS)
        self.invert = invert
        if threshold is not None and threshold_255 is not None:
            msg = f"Give threshold or threshold_255, not both; got {threshold} and {threshold_255}."
            raise ValueError(msg)
        if threshold_255 is not None and not isinstance(threshold_255, (int, float)):
            msg = f"threshold must be a number from 0 to 255, or 'subject' in a bundle; got {threshold_255!r}."
            raise ValueError(msg)
        if threshold_255 is not None:
            check_range("threshold_255", threshold_255, 0, 255)
        check_range("sigma", sigma, 0)
        check_range("min_prominence", min_prominence, 0)
        self.threshold, self.threshold_255 = threshold, threshold_255
        self.sigma, self.min_prominence = sigma, min_prominence

    def __call__(self, data: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mask of what was marked."""
        if mask is not None:
            check_same_grid("The mask", data, mask)
        image = convert_to_tensor(data).float()
        inside = torch.ones_like(image, dtype=torch.bool)
        if mask is not None:  # an image of several channels has content where any of them has
            inside = (convert_to_tensor(mask) > 0).any(0, keepdim=True).to(image.device).expand_as(image)
        low, high = (float(image[inside].min()), float(image[inside].max())) if bool(inside.any()) else (0.0, 0.0)
        if self.invert:
            image = low + high - image
        threshold = self._threshold(image, inside, low, high)
        marked = (image >= threshold if self.peak == "rightmost" else image <= threshold) & inside
        return convert_to_dst_type(marked.to(torch.uint8), data, dtype=torch.uint8)[0]

    def _threshold(self, image: Tensor, inside: Tensor, low: float, high: float) -> float:
        if self.threshold is not None:
            threshold = self.threshold() if callable(self.threshold) else self.threshold
            if not np.isfinite(threshold):
                msg = f"threshold must be a number, got {threshold}: train the network to the end, or give one."
                raise ValueError(msg)
            return threshold
        if self.threshold_255 is not None:
            return low + self.threshold_255 / 255 * (high - low)
        return peak_threshold(image, inside, self.peak, self.sigma, self.min_prominence)


class HistogramPeakThresholdd(MapTransform):
    """Dictionary version of `HistogramPeakThreshold`; ``mask_key`` names an image whose values above 0 count."""

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str | None = None,
        peak: str = "rightmost",
        invert: bool = False,
        threshold: float | Callable[[], float] | None = None,
        threshold_255: float | None = None,
        sigma: float = 1.5,
        min_prominence: float = 5e-4,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.transform = HistogramPeakThreshold(peak, invert, threshold, threshold_255, sigma, min_prominence)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with masks in the images' places."""
        result = dict(data)
        mask = None if self.mask_key is None else data[self.mask_key]
        for key in self.key_iterator(result):
            result[key] = self.transform(data[key], mask)
        return result
