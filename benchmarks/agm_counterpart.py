"""Why AGM's maps overlap less with the lesions of phantoms than a plain classifier's: one thing changed at a time.

``python benchmarks/agm_counterpart.py --ganomaly ganomaly.pt --out OUT``, with weights of ``experiment agm`` on the
phantoms of the bundle's README. A second start with the same folder goes on. Twenty minutes a seed.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
import measure
import numpy as np
import torch
from monai.metrics import compute_roc_auc
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from monai_anomaly.data.phantoms import oct_phantom
from monai_anomaly.inferers import SmoothedGradCAM
from monai_anomaly.metrics import OverlapTable, confusion_by_threshold
from monai_anomaly.networks.nets import AGMClassifier, GANomaly
from monai_anomaly.transforms import gate_maps

_SIZE, _CELL = 128, 8
_KINDS = (("SRF",), ("PED",), ("SRF", "PED"), ())
_ROWS = {  # counterpart, window of the attention (0: none), pooling
    "I: none, average pooling": ("none", 0, "average"),
    "none, max pooling": ("none", 0, "max"),
    "II: GANomaly's, average": ("ganomaly", 0, "average"),
    "III: GANomaly's, attention, average": ("ganomaly", 7, "average"),
    "IV: GANomaly's, attention, max": ("ganomaly", 7, "max"),
    "GANomaly's, attention of 3 x 3, average": ("ganomaly", 3, "average"),
    "the lesions' own, average": ("ideal", 0, "average"),
    "the lesions' own, attention, average": ("ideal", 7, "average"),
    "the lesions' own, attention of 3 x 3, average": ("ideal", 3, "average"),
    "the lesions' own, attention, max": ("ideal", 7, "max"),
}
_RATES = {"average": 0.02, "max": 0.005}  # with maximum pooling the higher one does not settle


class Oracle(nn.Module):
    """Give images in [-1, 1] back with the values in their lesions, ``mask``, changed."""

    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the counterpart."""
        return torch.where(self.mask > 0, 0.25 - 0.5 * x, x)


def scans(first: int, count: int, num_kinds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return B-scans, labels and image labels of phantoms by their seeds."""
    images, labels = [], []
    for seed in range(first, first + count):
        phantom = oct_phantom((96, 96, 3), _KINDS[seed % num_kinds], 0.2, seed)
        drawn = np.select([phantom.kinds[kind] == phantom.label[..., 1].T for kind in ("SRF", "PED")], [1, 2])
        images.append(cv2.resize(phantom.image[..., 1].T.astype(np.float32) / 255, (_SIZE, _SIZE)))
        labels.append(cv2.resize(drawn.astype(np.uint8), (_SIZE, _SIZE), interpolation=cv2.INTER_NEAREST))
    image, label = torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(labels))[:, None]
    present = [(label == value).flatten(1).any(1).float() for value in (1, 2)]
    return image, label, torch.stack([*present, torch.ones(count)], 1)


def build(row: str, ganomaly: str) -> AGMClassifier:
    """Return the classifier of a row."""
    counterpart, window, pooling = _ROWS[row]
    generator: nn.Module | None = None
    if counterpart == "ideal":
        generator = Oracle()
    elif counterpart == "ganomaly":
        detector = GANomaly(_SIZE, 64, 1, 16)
        detector.load_state_dict(torch.load(ganomaly, weights_only=True))
        generator = detector.generator
    options = {"pooling": pooling, "head": "single", "output_stride": _CELL, "width": 0.25, "kernel_size": window or 7}
    return AGMClassifier(generator, 3, 1, "resnet18", attention=window > 0, **options)


def seen(network: AGMClassifier, images: Tensor, labels: Tensor) -> Tensor:
    """Return the network's input; an ideal counterpart is told where the lesions are."""
    if isinstance(network.generator, Oracle):
        network.generator.mask = labels
    return torch.cat((images, torch.ones_like(images)), 1)


def train(network: AGMClassifier, images: Tensor, labels: Tensor, present: Tensor, epochs: int) -> None:
    """Train with flips and brightness alone."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, _RATES[network.pooling], momentum=0.9)
    network.train()
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(8):
            x, mask = images[part], labels[part]
            if torch.rand(1) < 0.5:
                x, mask = x.flip(3), mask.flip(3)
            x = (x * (0.7 + 0.6 * torch.rand(len(part), 1, 1, 1))).clamp(0, 1)
            loss = F.binary_cross_entropy_with_logits(network(seen(network, x, mask)), present[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()


def judge(network: AGMClassifier, images: Tensor, labels: Tensor, present: Tensor) -> tuple[float, float]:
    """Return the lower AUROC of the two lesions and the best mean IoU of plain, gated maps."""
    cam = SmoothedGradCAM(network, network.cam_layers, smooth=False, num_unscaled=1)
    found, logits = [], []
    for x, label in zip(images[:, None], labels, strict=True):
        told, maps = cam.maps(seen(network, x, label[None]), 2)
        logits.append(told[0].detach())
        found.append(maps[0])
    told = torch.stack(logits)
    return min(compute_roc_auc(told[:, k], present[:, k]) for k in range(2)), overlap(found, labels, present)


def overlap(maps: list[Tensor], labels: Tensor, present: Tensor) -> float:
    """Return the best mean IoU over one threshold, background included."""
    table = OverlapTable(["SRF", "PED"], np.linspace(0, 1, 101))
    for some, label, there in zip(maps, labels, present, strict=True):
        table.add(confusion_by_threshold(gate_maps(some, there[:2]).numpy(), label[0].numpy(), table.thresholds))
    return float(np.nanmean(table.iou()[table.best()]))


def best_possible(labels: Tensor, present: Tensor) -> float:
    """Return the same of the lesions themselves, seen in cells as large as a map's."""
    masks = torch.cat([(labels == value).float() for value in (1, 2)], 1)
    coarse = F.interpolate(F.avg_pool2d(masks, _CELL), (_SIZE, _SIZE), mode="bilinear")
    scaled = coarse / coarse.amax((2, 3), keepdim=True).clamp(min=1e-6)
    return overlap(list(scaled), labels, present)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ganomaly", required=True, help="weights of GANomaly(128, 64, 1, 16)")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seeds", type=int, default=3)
    known = parser.parse_args()
    torch.set_num_threads(measure.NUM_THREADS)
    known.out.mkdir(parents=True, exist_ok=True)
    table = known.out / "counterparts.csv"
    done: dict[tuple[str, int], tuple[float, float]] = {}
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as handle:
            done = {
                (r["row"], int(r["seed"])): (float(r["auroc"]), float(r["mean_iou"])) for r in csv.DictReader(handle)
            }
    learned, judged = scans(200, 240, 4), scans(440, 60, 3)
    for seed in tqdm(range(known.seeds), desc="seeds"):
        for row in _ROWS:
            if (row, seed) in done:
                continue
            torch.manual_seed(seed)
            network = build(row, known.ganomaly)
            train(network, *learned, known.epochs)
            done[row, seed] = judge(network, *judged)
            lines = [("row", "seed", "auroc", "mean_iou"), *((*key, *value) for key, value in done.items())]
            with table.open("w", newline="", encoding="utf-8") as handle:
                csv.writer(handle).writerows(lines)
    rows = [("the lesions in cells of 8 pixels", f"{best_possible(*judged[1:]):.3f}")]
    for row in _ROWS:
        auroc, iou = np.array([done[row, seed] for seed in range(known.seeds)]).T
        spread = f" +- {iou.std(ddof=1):.3f}" if len(iou) > 1 else ""
        rows.append((row, f"{iou.mean():.3f}{spread}, AUROC {auroc.min():.3f} or more"))
    measure.table("counterpart: mean IoU of plain maps, AUROC of the classification", rows)


if __name__ == "__main__":
    main()
