"""What a healthy counterpart is worth to AGM's maps: none, GANomaly's, and one that differs in the lesions alone.

``python benchmarks/agm_counterpart.py --ganomaly ganomaly.pt``, with weights of ``experiment agm`` on phantoms (see the
bundle's README), on the B-scans of the same phantoms. One training each, seed 0, a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse

import cv2
import measure
import numpy as np
import torch
from torch import Tensor, nn

from monai_anomaly.data.phantoms import oct_phantom
from monai_anomaly.inferers import SmoothedGradCAM
from monai_anomaly.metrics import OverlapTable, confusion_by_threshold
from monai_anomaly.networks.nets import AGMClassifier, GANomaly
from monai_anomaly.transforms import gate_maps

_SIZE = 128
_KINDS = (("SRF",), ("PED",), ("SRF", "PED"), ())


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


def train(network: AGMClassifier, images: Tensor, labels: Tensor, present: Tensor, epochs: int) -> None:
    """Train with flips and brightness alone."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.02, momentum=0.9)
    network.train()
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(8):
            x, mask = images[part], labels[part]
            if torch.rand(1) < 0.5:
                x, mask = x.flip(3), mask.flip(3)
            x = (x * (0.7 + 0.6 * torch.rand(len(part), 1, 1, 1))).clamp(0, 1)
            if isinstance(network.generator, Oracle):
                network.generator.mask = mask
            loss = nn.functional.binary_cross_entropy_with_logits(
                network(torch.cat((x, torch.ones_like(x)), 1)), present[part]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def judge(network: AGMClassifier, images: Tensor, labels: Tensor, present: Tensor) -> float:
    """Return the best mean IoU of plain, gated maps."""
    cam = SmoothedGradCAM(network.eval(), network.cam_layers, smooth=False, num_unscaled=1)
    table = OverlapTable(["SRF", "PED"], np.linspace(0, 1, 101))
    for x, label, there in zip(images[:, None], labels, present, strict=True):
        if isinstance(network.generator, Oracle):
            network.generator.mask = label[None]
        _, maps = cam.maps(torch.cat((x, torch.ones_like(x)), 1), 2)
        table.add(confusion_by_threshold(gate_maps(maps[0], there[:2]).numpy(), label[0].numpy(), table.thresholds))
    return float(np.nanmean(table.iou()[table.best()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ganomaly", required=True, help="weights of GANomaly(128, 64, 1, 16)")
    parser.add_argument("--epochs", type=int, default=14)
    known = parser.parse_args()
    torch.set_num_threads(measure.NUM_THREADS)
    ganomaly = GANomaly(_SIZE, 64, 1, 16)
    ganomaly.load_state_dict(torch.load(known.ganomaly, weights_only=True))
    learned, judged = scans(200, 240, 4), scans(440, 60, 3)
    rows = []
    for name, generator in (("none", None), ("GANomaly's", ganomaly.generator), ("the lesions' own", Oracle())):
        for attention, pooling in ((False, "average"), (True, "average"), (True, "max")):
            if attention and generator is None:
                continue
            torch.manual_seed(0)
            options = {"attention": attention, "pooling": pooling, "head": "single", "output_stride": 8, "width": 0.25}
            network = AGMClassifier(generator, 3, 1, "resnet18", **options)
            train(network, *learned, known.epochs)
            how = f"{name}, {'attention, ' if attention else ''}{pooling} pooling"
            rows.append((how, f"{judge(network, *judged):.3f}"))
            print(rows[-1], flush=True)
    measure.table("mean IoU of maps by the counterpart that is seen", rows)


if __name__ == "__main__":
    main()
