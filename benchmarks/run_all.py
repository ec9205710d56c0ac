"""All benchmarks in one run, into one Markdown file. ``python benchmarks/run_all.py [--out FILE] [--only NAME …]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import measure
import torch

HERE = Path(__file__).parent
NAMES = [
    *("memory_bank", "features", "pixel_metrics", "ascnet", "synthetic_lesion", "oct_geometry", "poisson_blend"),
    *("amnet", "agm", "inspect_headers", "batch_inference", "feature_store"),
]


def machine() -> list[str]:
    """Return what the machine can do at best, a table."""
    rows = []
    for threads in sorted({1, measure.NUM_THREADS}):
        torch.set_num_threads(threads)
        product, copy = measure.product_rate.__wrapped__(), measure.copy_rate.__wrapped__()
        rows.append(f"| {threads} | {product:.0f} GFLOP/s | {copy:.1f} GB/s |")
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    name = model.split(":")[-1].strip()
    head = [
        f"{name}, torch {torch.__version__}.",
        "",
        "| threads | float32 product, 4096 x 4096 | copy, read and written |",
    ]
    return [*head, "|---|---|---|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    options = parser.parse_args()
    text, failed = ["# Benchmarks of one run", "", *machine()], []
    for name in options.only:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, HERE / f"{name}.py"], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            failed.append(name)
        tables = [line for line in done.stdout.splitlines() if line.startswith(("|", "###", "-")) or not line]
        text += ["", f"## {name}", *tables, "", f"{time.perf_counter() - start:.0f} s."]
        options.out.write_text("\n".join(text) + "\n", encoding="utf-8")
        print(f"{name}: {'failed' if done.returncode else 'done'}")
    print(options.out)
    if failed:
        sys.exit(f"{', '.join(failed)} failed")


if __name__ == "__main__":
    main()
