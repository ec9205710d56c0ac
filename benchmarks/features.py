"""Features on the CPU: which layout and number format is fastest, and what it does to the map.

``python benchmarks/features.py [--images FOLDER]``
"""

from __future__ import annotations

import argparse

import measure
import torch

from monai_anomaly.networks.nets import ReSAD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="folder of photographs; phantoms without it")
    parser.parse_args()
    torch.set_num_threads(measure.NUM_THREADS)
    detector = ReSAD(radius=0, attention="none").load_backbone("random").eval()
    plain = ReSAD(radius=0, attention="none").load_backbone("random").eval()
    plain.feature_extractor.to(memory_format=torch.contiguous_format)
    channels_last = ReSAD(radius=0, attention="none").load_backbone("random").eval()
    channels_last.feature_extractor.to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, 784, 784)
    last = image.contiguous(memory_format=torch.channels_last)

    def bfloat16() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return channels_last.feature_extractor(last)

    with torch.no_grad():
        times = measure.fastest(
            {
                "contiguous": lambda: plain.feature_extractor(image),
                "channels_last": lambda: channels_last.feature_extractor(last),
                "bfloat16 autocast": bfloat16,
                "ours (ReSAD.features without ReSC)": lambda: detector.features(image),
            },
            3,
        )
        reference = plain.feature_extractor(image)
        bank = reference[0].flatten(1).T[::10].contiguous()
        maps = {}
        for name, features in (
            ("channels_last", channels_last.feature_extractor(last)),
            ("bfloat16 autocast", bfloat16().float()),
            ("ours (ReSAD.features without ReSC)", detector.features(image)),
            ("contiguous", reference),
        ):
            maps[name] = torch.cdist(features[0].flatten(1).T[1::10].contiguous(), bank).amin(1)
    best = min(times[name] for name in ("contiguous", "channels_last"))
    rows = []
    for name, seconds in times.items():
        change = float((maps[name] - maps["contiguous"]).abs().max() / maps["contiguous"].max())
        rows.append((name, f"{seconds:.2f} s, {seconds / best:.2f} of the best float32; map differs by {change:.1e}"))
    rows.append(("the best", measure.of_products(225e9, best)))
    small, side = torch.randn(1, 3, 392, 392).contiguous(memory_format=torch.channels_last), {}
    with torch.no_grad():
        side["392 x 392"] = measure.fastest({"s": lambda: detector.features(small)}, 3)["s"]
    side["784 x 784"] = times["ours (ReSAD.features without ReSC)"]
    rows += [(f"growth: ours at {name}", f"{seconds:.2f} s") for name, seconds in side.items()]
    measure.table("Features of a 784 x 784 image to stage 3, 225 GFLOP", rows)


if __name__ == "__main__":
    main()
