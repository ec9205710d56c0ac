"""How the benchmarks measure: interleaved repeats, the best of each, peak memory in a process of its own."""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from monai_anomaly.networks.blocks import MultiLevelFeatures, ResNet2d, imagenet_statistics, load_resnet_weights

NUM_THREADS = 2


def fastest(functions: Mapping[str, Callable[[], object]], repeats: int = 3) -> dict[str, float]:
    """Return the least seconds of each function, called in turns so that a busy spell meets them all."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


@functools.cache
def product_rate(repeats: int = 5) -> float:
    """Return the machine's float32 matrix-product rate in GFLOP/s, 4096 x 4096, at the threads of the first call."""
    left, right = torch.randn(4096, 4096), torch.randn(4096, 4096)
    return 2 * 4096**3 / fastest({"product": lambda: left @ right}, repeats)["product"] / 1e9


@functools.cache
def copy_rate(repeats: int = 5) -> float:
    """Return the machine's memory rate in GB/s, read and written, at the threads of the first call."""
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    return 2 * 4 * len(source) / fastest({"copy": lambda: target.copy_(source)}, repeats)["copy"] / 1e9


def operations(function: Callable[[], object]) -> float:
    """Return the floating-point operations of a call's products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def of_products(operations: float, seconds: float) -> str:
    """Return a rate of floating-point operations beside the machine's."""
    rate = operations / seconds / 1e9
    return f"{rate:.0f} GFLOP/s, {rate / product_rate():.2f} of the matrix-product rate"


def of_memory(num_bytes: float, seconds: float) -> str:
    """Return a rate of bytes read and written beside the machine's."""
    rate = num_bytes / seconds / 1e9
    return f"{rate:.1f} GB/s, {rate / copy_rate():.2f} of the memory's rate"


def _peak(function: Callable[..., object], arguments: tuple[object, ...], queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(NUM_THREADS)
    warm_up = torch.randn(2048, 2048)  # the libraries take their own memory at the first large product
    warm_up @ warm_up
    inputs = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = high_water()
    function(*inputs)
    queue.put((high_water() - before) / 1024)


def high_water() -> int:
    """Return the peak memory of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peak_megabytes(function: Callable[..., object], *arguments: object) -> float:
    """Return by how many MiB a call raises the peak memory of a fresh process that holds its arguments."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(function, arguments, queue))
    process.start()
    result = queue.get()
    process.join()
    return float(result)


def real_features(folder: str | None, num_images: int = 6, size: int = 784) -> torch.Tensor:
    """Return (num_images x 98 x 98, 1536) features of photographs, of phantoms where no folder is given."""
    if folder is None:
        from monai_anomaly.data.phantoms import fundus_phantom

        pictures = [Image.fromarray(fundus_phantom((size, size), seed=n).image) for n in range(num_images)]
    else:
        files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in {".jpg", ".png"})[:num_images]
        pictures = [Image.open(file).convert("RGB").resize((size, size)) for file in files]
    mean, std = (torch.tensor(values)[:, None, None] for values in imagenet_statistics())
    backbone = ResNet2d("wide_resnet50_2")
    load_resnet_weights(backbone, "wide_resnet50_2", "random")
    network = MultiLevelFeatures(backbone).eval()
    rows = []
    with torch.no_grad():
        for picture in pictures:
            image = (torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - mean) / std
            rows.append(network(image[None])[0].flatten(1).T)
    return torch.cat(rows)


def table(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a two-column Markdown table."""
    print(f"\n### {title}\n\n| what | measured |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
