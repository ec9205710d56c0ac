"""Inference of volumes from file to file, files written beside the computing or after it; torch beside onnxruntime.

``python benchmarks/batch_inference.py``
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import measure
import torch

from monai_anomaly import ranks
from monai_anomaly.__main__ import main as run
from monai_anomaly.data import BackgroundWrites
from monai_anomaly.data.phantoms import write_phantoms
from monai_anomaly.networks import OnnxNetwork, export_onnx
from monai_anomaly.networks.nets import ReSynthDetect

CHANNELS, SIZE, CASES = (16, 32, 64, 128, 128), (192, 192), 6


def infer(data: Path, weights: Path, out: Path, *more: str) -> None:
    words = ["run", "resynthdetect", "inference", "data_volume", "--dataset_dir", str(data), "--output_dir", str(out)]
    words += ["--resume", "False"]
    words += ["--ckpt_path", str(weights), "--channels", str(list(CHANNELS)), "--image_size", str(list(SIZE)), *more]
    assert run(words) == 0


def serially(data: Path, weights: Path, out: Path) -> None:
    with mock.patch.object(BackgroundWrites, "run", staticmethod(lambda job: job())):
        infer(data, weights, out)


def in_processes(count: int, data: Path, weights: Path, out: Path) -> float:
    """Return the seconds of the slower process of those that share the cases and the threads, libraries loaded."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_share, args=(n, count, data, weights, out, queue)) for n in range(count)]
    for process in processes:
        process.start()
    seconds = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return max(seconds)


def _share(index: int, count: int, data: Path, weights: Path, out: Path, queue: multiprocessing.Queue) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(measure.NUM_THREADS // count)
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    for port, folder in ((29641, out / "first"), (29642, out / "second")):
        os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_PORT": str(port)})
        ranks.join()
        ranks.wait()
        start = time.perf_counter()
        infer(data, weights, folder, "--config", "multi_gpu_inference")
    queue.put(time.perf_counter() - start)


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(measure.NUM_THREADS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_phantoms("oct", root / "data", 1, CASES, shape=(512, 496, 25))
        network = ReSynthDetect(1, CHANNELS).eval()
        network.calibration.fit(torch.linspace(0, 1, 11))
        torch.save(network.state_dict(), root / "model.pt")
        times = measure.fastest(
            {
                "beside": lambda: infer(data, root / "model.pt", root / "beside"),
                "ahead": lambda: infer(data, root / "model.pt", root / "ahead", "--num_workers", "1"),
                "after": lambda: serially(data, root / "model.pt", root / "after"),
            },
            3,
        )
        shared = min(in_processes(2, data, root / "model.pt", root / "shared") for _ in range(2))
        for one in (root / "beside").rglob("*_anomaly_map.nii.gz"):
            assert (root / "after" / one.relative_to(root / "beside")).is_file()
        image = torch.rand(1, 1, *SIZE)
        (root / "model.onnx").write_bytes(export_onnx(network, image, {}))
        loaded = OnnxNetwork(root / "model.onnx")
        with torch.inference_mode():
            speeds = measure.fastest({"torch": lambda: network(image), "onnx": lambda: loaded(image)}, 20)
    measure.table(
        f"{CASES} volumes of 512 x 496 x 25, ReSynthDetect at {SIZE[0]} x {SIZE[1]}, file to file",
        [
            ("files after each case", f"{times['after']:.1f} s"),
            ("files beside the next case", f"{times['beside']:.1f} s, {times['after'] / times['beside']:.2f}x"),
            (
                "and the next one read by a worker (--num_workers 1)",
                f"{times['ahead']:.1f} s, {times['after'] / times['ahead']:.2f}x",
            ),
            ("two processes share the cases", f"{shared:.1f} s, {times['after'] / shared:.2f}x"),
            ("a slice, torch", f"{1000 * speeds['torch']:.1f} ms"),
            ("a slice, onnxruntime", f"{1000 * speeds['onnx']:.1f} ms, {speeds['torch'] / speeds['onnx']:.2f}x"),
        ],
    )


if __name__ == "__main__":
    main()
