"""ASC-Net: what loading, training and slice-wise inference cost. ``python benchmarks/ascnet.py [--quick]``."""

from __future__ import annotations

import argparse

import measure
import torch
from monai.data import DataLoader, MetaTensor
from torch.optim import Adam

from monai_anomaly.data import CutPairs, SliceDataset
from monai_anomaly.engines import SelectiveCutTrainer, cut_readings, kernel_penalty_groups
from monai_anomaly.inferers import CutSliceInferer
from monai_anomaly.networks.nets import ASCDiscriminator, ASCNet


class Volumes(torch.utils.data.Dataset):
    """Volumes of noise at the size of MNI space, half of the slices with a lesion."""

    def __init__(self, count: int = 2, shape: tuple[int, ...] = (182, 218, 60)) -> None:
        self.items = []
        for number in range(count):
            label = torch.zeros(1, *shape, dtype=torch.uint8)
            label[:, 90, 100, : shape[2] // 2] = 1
            self.items.append(
                {"image": torch.rand(1, *shape), "label": label, "case": str(number), "group": "abnormal"}
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]


def loading(size: int, batch_size: int) -> None:
    slices = SliceDataset(Volumes(), keep="content", image_size=(size, size), cache="slices")
    loader = DataLoader(CutPairs(slices), batch_size=batch_size, shuffle=True, num_workers=0)
    network, discriminator = ASCNet(), ASCDiscriminator(image_size=(size, size))
    trainer = SelectiveCutTrainer(
        device="cpu",
        train_data_loader=loader,
        network=network,
        discriminator=discriminator,
        optimizer=Adam(kernel_penalty_groups(network), 5e-5),
        d_optimizer=Adam(kernel_penalty_groups(discriminator), 5e-5),
        cycles=(1, 0),
        readings=cut_readings("paper"),
    )
    trainer.scaler = torch.amp.GradScaler(enabled=False)
    batch = next(iter(loader))
    times = {}
    for name, epoch in (("D", 1), ("M", 2)):
        trainer.state.epoch = epoch
        step = measure.fastest({"step": lambda: trainer._iteration(trainer, batch)}, 2)["step"]
        times[name] = step / len(batch["image"])
    pass_time = measure.fastest({"pass": lambda: [None for _ in loader]}, 5)["pass"] / len(loader.dataset)
    measure.table(
        f"Loading beside training, {size} x {size}, cached, batches of {batch_size}, two threads",
        [
            ("a pair from the loader", f"{1e3 * pass_time:.2f} ms"),
            ("a pair in D's step", f"{1e3 * times['D']:.0f} ms, {times['D'] / pass_time:.0f} times the loading"),
            ("an image in M's step", f"{1e3 * times['M']:.0f} ms, {times['M'] / pass_time:.0f} times the loading"),
        ],
    )


def inference(shape: tuple[int, ...], size: int, batch_size: int = 8) -> None:
    volume = MetaTensor(torch.rand(1, 1, *shape))
    network = ASCNet().eval()
    inferer = CutSliceInferer(2, (size, size), sw_batch_size=batch_size)
    slices = volume.as_tensor()[0].movedim(3, 0)

    def bare() -> torch.Tensor:
        found = []
        for part in slices.split(batch_size):
            small = torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
            cuts = torch.cat(network.cuts(small), 1)
            found.append(torch.nn.functional.interpolate(cuts, shape[:2], mode="bilinear", antialias=True))
        return torch.cat(found)

    with torch.no_grad():
        times = measure.fastest({"bare loop": bare, "inferer": lambda: inferer(volume, network)}, 3)
        first = slices[:batch_size].reshape(-1, 1, *shape[:2])[..., :size, :size]
        work = measure.operations(lambda: network.cuts(first)) * shape[2] / batch_size
    measure.table(
        f"Inference of {' x '.join(map(str, shape))}, slices at {size} x {size}",
        [
            ("bare loop over batches of slices", f"{times['bare loop']:.1f} s"),
            ("CutSliceInferer", f"{times['inferer']:.1f} s, {times['inferer'] / times['bare loop']:.2f} of it"),
            ("its products per second", measure.of_products(work, times["inferer"])),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few slices, small volume")
    quick = parser.parse_args().quick
    torch.set_num_threads(measure.NUM_THREADS)
    loading(160, 4 if quick else 12)
    for count in (12, 24) if quick else (24, 48, 182):  # grows with the slices
        inference((182, 218, count), 160)


if __name__ == "__main__":
    main()
