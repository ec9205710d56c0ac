"""Coreset, scoring and ReSC beside their plain forms. ``python benchmarks/memory_bank.py [--images FOLDER]``."""

from __future__ import annotations

import argparse

import measure
import torch

from monai_anomaly.networks.blocks import (
    RegionFilter,
    RegionSpatialCombination,
    k_center_greedy,
    nearest_neighbors,
    sparse_random_projection,
)
from monai_anomaly.networks.blocks.nearest_neighbors import CoarseBank


def plain_greedy(features: torch.Tensor, num_centers: int) -> torch.Tensor:
    """The plain greedy in its good form: one matrix-vector product per pick, nothing allocated that is large."""
    norms = features.square().sum(1)
    nearest = torch.full((len(features),), float("inf"))
    picks = [0]
    for _ in range(num_centers - 1):
        center = features[picks[-1]]
        torch.minimum(nearest, torch.addmv(norms, features, center, alpha=-2).add_(center.dot(center)), out=nearest)
        nearest[picks[-1]] = -1
        picks.append(int(nearest.argmax()))
    return torch.tensor(picks)


def covering_radius(features: torch.Tensor, picks: torch.Tensor) -> float:
    return float(nearest_neighbors(features, features[picks], precision="float32")[0].max())


def coreset(features: torch.Tensor) -> None:
    num_centers = len(features) // 10
    lazy, plain = k_center_greedy(features, num_centers), plain_greedy(features, num_centers)
    times = measure.fastest(
        {"lazy": lambda: k_center_greedy(features, num_centers), "plain": lambda: plain_greedy(features, num_centers)},
        2,
    )
    rate = measure.product_rate()
    useful = 2 * len(features) * num_centers * features.shape[1] / times["lazy"] / 1e9
    radii = covering_radius(features, lazy), covering_radius(features, plain)
    peak = measure.peak_megabytes(k_center_greedy, features, num_centers)
    size = features.numel() * 4 / 2**20
    same = len(set(lazy.tolist()) & set(plain.tolist())) / num_centers
    measure.table(
        f"k-center greedy, {len(features)} x {features.shape[1]}, {num_centers} picks",
        [
            ("plain greedy, a matrix-vector product per pick", f"{times['plain']:.2f} s"),
            ("ours", f"{times['lazy']:.2f} s, {times['plain'] / times['lazy']:.1f}x"),
            ("machine's matrix-product rate", f"{rate:.0f} GFLOP/s"),
            ("ours, products of the plain greedy per second", f"{useful:.0f} GFLOP/s, {useful / rate:.2f} of the rate"),
            ("picks shared with the plain greedy", f"{same:.2%}"),
            ("covering radius, ours and plain", f"{radii[0]:.5g}, {radii[1]:.5g} ({abs(radii[0] / radii[1] - 1):.1e})"),
            ("memory beside the features", f"{peak:.1f} MiB of {size:.1f}, {peak / size:.0%}"),
        ],
    )
    rows = []
    for count in (len(features) // 4, len(features) // 2, len(features)):
        part = features[:count]
        seconds = measure.fastest({"k": lambda part=part: k_center_greedy(part, len(part) // 10)}, 2)["k"]
        rows.append((f"{count} rows, {count // 10} picks", f"{seconds:.2f} s"))
    measure.table("k-center greedy, growth", rows)


def scoring(features: torch.Tensor) -> None:
    queries, generator = features[:9604], torch.Generator().manual_seed(0)
    bank = features[9604:][torch.randperm(len(features) - 9604, generator=generator)[:10_000]].contiguous()
    prepared = CoarseBank(bank)
    chosen = prepared.precision
    times = measure.fastest(
        {
            "torch.cdist(...).min": lambda: torch.cdist(queries, bank).min(1),
            "ours, float32": lambda: nearest_neighbors(queries, bank, precision="float32"),
            f"ours, auto ({chosen}), bank prepared": lambda: nearest_neighbors(queries, bank, coarse=prepared),
            f"ours, auto ({chosen}), with preparing it": lambda: nearest_neighbors(queries, bank),
        },
        5,
    )
    normal = torch.randn(9604, 1536, generator=generator), torch.randn(10_000, 1536, generator=generator)
    noise = CoarseBank(normal[1])
    hard = measure.fastest(
        {"cdist": lambda: torch.cdist(*normal).min(1), "ours": lambda: nearest_neighbors(*normal, coarse=noise)}, 5
    )
    exact = torch.cdist(queries.double()[:2000], bank.double()).min(1)
    base = times["torch.cdist(...).min"]
    rows = [(name, f"{seconds:.2f} s, {seconds / base:.2f} of cdist") for name, seconds in times.items()]
    rows.append(
        (
            f"normal noise instead of features: auto ({noise.precision}), bank prepared",
            f"{hard['ours']:.2f} s, {hard['ours'] / hard['cdist']:.2f} of cdist",
        )
    )
    for precision in ("float32", "auto"):
        distances, indices = nearest_neighbors(queries[:2000], bank, precision=precision)
        error = ((distances[:, 0] - exact.values) / exact.values).abs()
        same = float((indices[:, 0] == exact.indices).float().mean())
        rows.append(
            (
                f"{precision}: same neighbor; distance error, mean, largest",
                f"{same:.2%}; {error.mean():.1e}, {error.max():.1e}",
            )
        )
    rows += [
        (f"{precision}: memory", f"{measure.peak_megabytes(_score, queries, bank, precision):.0f} MiB")
        for precision in ("float32", "auto")
    ]
    own = times[f"ours, auto ({chosen}), bank prepared"]
    plain = 2 * 9604 * len(bank) * 1536
    rows += [
        ("products of the plain form per second, cdist's", measure.of_products(plain, base)),
        ("products of the plain form per second, ours", measure.of_products(plain, own)),
    ]
    measure.table("Scoring, 9,604 x 1,536 against 10,000 rows", rows)
    growth = []
    for count in (2500, 5000, 10_000):
        part = bank[:count]
        some = CoarseBank(part)
        score = {"s": lambda part=part, some=some: nearest_neighbors(queries, part, coarse=some)}
        growth.append((f"{count} rows", f"{measure.fastest(score, 3)['s']:.2f} s"))
    measure.table("Scoring, growth", growth)
    large = features.repeat(3, 1)[:128_693] + 0.01 * torch.randn(128_693, features.shape[1], generator=generator)
    prepared = CoarseBank(large)
    seconds = measure.fastest({"large": lambda: nearest_neighbors(queries, large, coarse=prepared)}, 1)["large"]
    peak = measure.peak_megabytes(_score, queries, large, "auto")
    measure.table(
        "Scoring against 128,693 rows",
        [
            ("ours, auto", f"{seconds:.1f} s"),
            ("memory", f"{peak:.0f} MiB beside the bank's {large.numel() * 4 / 2**20:.0f}"),
        ],
    )


def _score(queries: torch.Tensor, bank: torch.Tensor, precision: str) -> None:
    nearest_neighbors(queries, bank, precision=precision)


def _full_matrix(features: torch.Tensor, region: RegionFilter) -> torch.Tensor:
    flat = features[0].flatten(1)
    unit = flat / flat.norm(dim=0)
    mixed = flat @ torch.softmax(unit.T @ unit / 0.1, dim=1).T
    return region(features) + mixed.view_as(features)


def _combine(features: torch.Tensor) -> None:
    RegionSpatialCombination()(features)


def resc(features: torch.Tensor) -> None:
    maps = features[:9604].T.reshape(1, -1, 98, 98).contiguous()
    module, region = RegionSpatialCombination(), RegionFilter()
    times = measure.fastest({"full matrix": lambda: _full_matrix(maps, region), "ours": lambda: module(maps)}, 3)
    difference = float((module(maps) - _full_matrix(maps, region)).abs().max())
    measure.table(
        "ReSC at 98 x 98 x 1,536",
        [
            ("9,604 x 9,604 attention matrix in memory", f"{times['full matrix']:.2f} s"),
            ("ours, chunks", f"{times['ours']:.2f} s, {times['ours'] / times['full matrix']:.2f} of it"),
            ("its products per second", measure.of_products(4 * 9604**2 * 1536, times["ours"])),
            ("largest difference", f"{difference:.1e} of values up to {float(maps.max()):.0f}"),
            (
                "ours, memory",
                f"{measure.peak_megabytes(_combine, maps):.0f} MiB, {maps.numel() * 4 / 2**20:.0f} of them the result",
            ),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="folder of photographs; phantoms without it")
    folder = parser.parse_args().images
    torch.set_num_threads(measure.NUM_THREADS)
    features = measure.real_features(folder)
    coreset(features @ sparse_random_projection(1536, 347))
    scoring(features)
    resc(features)


if __name__ == "__main__":
    main()
