"""A fit of many images within a bound of memory. ``python benchmarks/feature_store.py [--images 134]``."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import measure
import torch

from monai_anomaly.engines import FeatureStore
from monai_anomaly.networks.blocks import MemoryBank

ROWS, WIDTH, CLUSTERS = 98 * 98, 1536, 4000
BLOCK_GB = 0.46  # a block of images beside its copy and projections


def fit(images: int, memory_gb: float) -> tuple[int, int, int, float, float, float]:
    torch.set_num_threads(measure.NUM_THREADS)
    generator = torch.Generator().manual_seed(0)
    centers = 4 * torch.randn(CLUSTERS, WIDTH, generator=generator)
    store, spent = FeatureStore(images, 0.1, memory_gb), 0.0
    for _ in range(images):
        chosen = torch.randint(CLUSTERS, (ROWS,), generator=generator)
        batch = torch.randn(ROWS, WIDTH, generator=generator).add_(centers[chosen])
        start = time.perf_counter()
        store.add(batch)
        spent += time.perf_counter() - start
    reduced, start, bank = spent, time.perf_counter(), MemoryBank()
    bank.fit(store.rows, num_rows=store.bank_rows, progress=True)
    spent += time.perf_counter() - start
    return store.num_seen, len(store.rows), len(bank.rows), reduced, spent, measure.high_water() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=134, help="of 98 x 98 vectors; IDRiD has 134")
    parser.add_argument("--memory_gb", type=float, default=4.6)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rate = measure.product_rate()
    for images in (options.images // 4, options.images // 2, options.images):
        memory = (options.memory_gb - BLOCK_GB) * images / options.images + BLOCK_GB
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            seen, stayed, bank, reduced, spent, peak = pool.submit(fit, images, memory).result()
        products = 2 * 347 * stayed * bank / 1e9
        measure.table(
            f"{seen:,} vectors of {WIDTH}, memory_gb {memory:.2f}",
            [
                ("all of them would take", f"{seen * WIDTH * 4e-9:.1f} GB"),
                ("stayed, bank", f"{stayed:,}, {bank:,}"),
                ("reducing, all", f"{reduced:.0f} s, {spent:.0f} s"),
                ("a plain greedy on what stayed", f"{products / rate:.0f} s at {rate:.0f} GFLOP/s"),
                ("peak memory of the process", f"{peak:.2f} GiB"),
            ],
        )


if __name__ == "__main__":
    main()
