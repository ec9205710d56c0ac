"""Pixel metrics beside scikit-learn, and a billion pixels streamed. ``python benchmarks/pixel_metrics.py``."""

from __future__ import annotations

import time

import measure
import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_anomaly.metrics import PixelAveragePrecisionMetric, PixelROCAUCMetric, StreamingMetric

CHUNK = 1 << 22


def stream(metric: StreamingMetric, scores: np.ndarray, labels: np.ndarray) -> float:
    metric.reset()
    for start in range(0, len(scores), CHUNK):
        part = slice(start, start + CHUNK)
        metric(torch.from_numpy(scores[part])[None, None], torch.from_numpy(labels[part])[None, None])
    return float(metric.aggregate())


def billion() -> None:
    metric = PixelAveragePrecisionMetric()
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(1, 1, CHUNK, generator=generator), torch.rand(1, 1, CHUNK, generator=generator) < 0.02
    for number in range(239):  # 239 x 4,194,304 = 1.002e9
        metric(scores + labels + number % 7 * 0.01, labels)
    metric.aggregate()


def main() -> None:
    torch.set_num_threads(measure.NUM_THREADS)
    rng = np.random.default_rng(0)
    labels = rng.random(10_000_000) < 0.02
    scores = (rng.normal(size=len(labels)) + labels).astype(np.float32)
    times = measure.fastest(
        {
            "auc": lambda: stream(PixelROCAUCMetric(), scores, labels),
            "auc sklearn": lambda: roc_auc_score(labels, scores),
            "ap": lambda: stream(PixelAveragePrecisionMetric(), scores, labels),
            "ap sklearn": lambda: average_precision_score(labels, scores),
        },
        3,
    )
    errors = (
        stream(PixelROCAUCMetric(), scores, labels) - roc_auc_score(labels, scores),
        stream(PixelAveragePrecisionMetric(), scores, labels) - average_precision_score(labels, scores),
    )
    gains = times["auc sklearn"] / times["auc"], times["ap sklearn"] / times["ap"]
    growth = {
        count: measure.fastest({"s": lambda n=count: stream(PixelROCAUCMetric(), scores[:n], labels[:n])}, 3)["s"]
        for count in (1_000_000, 3_000_000, 10_000_000)
    }
    start = time.perf_counter()
    peak = measure.peak_megabytes(billion)
    measure.table(
        "Pixel metrics",
        [
            (
                "AUROC of 10,000,000 pixels",
                f"{times['auc']:.2f} s, {gains[0]:.1f}x scikit-learn; off by {errors[0]:.1e}",
            ),
            (
                "AUPR of 10,000,000 pixels",
                f"{times['ap']:.2f} s, {gains[1]:.1f}x scikit-learn; off by {errors[1]:.1e}",
            ),
            ("its bytes of scores and labels", measure.of_memory(5 * len(scores), times["auc"])),
            *((f"growth: AUROC of {count:,} pixels", f"{seconds:.2f} s") for count, seconds in growth.items()),
            ("1,000,000,000 pixels", f"{time.perf_counter() - start:.0f} s, {peak:.0f} MiB"),
        ],
    )


if __name__ == "__main__":
    main()
