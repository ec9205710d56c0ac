"""Segmenting an OCT volume from file to file beside MONAI's SliceInferer. ``python benchmarks/amnet.py``."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import measure
import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer, SliceInferer

from monai_anomaly.data.phantoms import oct_phantom
from monai_anomaly.data.phantoms.write import write_mhd
from monai_anomaly.keys import SEGMENTATION
from monai_anomaly.networks.nets import MobileNetV3Segmenter
from monai_anomaly.workflows import config_files, find_bundle


class Plain(Inferer):
    """MONAI's SliceInferer with its defaults, and labels of its logits."""

    def __init__(self) -> None:
        self.inferer = SliceInferer(roi_size=(496, 512), spatial_dim=2)

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Return the labels."""
        return {SEGMENTATION: self.inferer(inputs, network).argmax(1, keepdim=True)}


def run(folder: str, plain: bool, amp: bool = False) -> None:
    """Run inference.yaml on the folder's volume."""
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    parser = ConfigParser()
    parser.read_config(config_files(find_bundle("amnet"), ["inference"]))
    parser.update(
        {"dataset_dir": f"{folder}/data", "output_dir": f"{folder}/out", "ckpt_path": f"{folder}/model.pt", "amp": amp}
    )
    parser["bundle_root"] = str(find_bundle("amnet"))
    if plain:
        parser["inferer"] = {"_target_": Plain}
        parser["network"] = "$@network_def.to(@device)"
    weights = [one for one in parser["handlers"] if one["_target_"] == "CheckpointLoader"]
    parser["handlers"] = weights  # no bar, no tables, no pictures
    parser.get_parsed_content("evaluator").run()


def main() -> None:
    torch.set_num_threads(measure.NUM_THREADS)
    with tempfile.TemporaryDirectory() as folder:
        phantom = oct_phantom((512, 496, 49), ("PED", "SRF"), seed=0)
        write_mhd(Path(folder) / "data" / "scan.mhd", phantom.image, phantom.affine)
        network = MobileNetV3Segmenter(1, 5, "two_skip")
        torch.save(network.state_dict(), f"{folder}/model.pt")
        ways = {"ours": (False, False), "ours, bfloat16": (False, True), "SliceInferer": (True, False)}
        times = measure.fastest({name: lambda way=way: run(folder, *way) for name, way in ways.items()}, 2)
        memory = {name: measure.peak_megabytes(run, folder, *way) for name, way in ways.items()}
    plain = times["SliceInferer"]
    measure.table(
        f"49 x 496 x 512 from file to file, float32, {measure.NUM_THREADS} threads",
        [(name, f"{t:.1f} s, {plain / t:.2f}x; {memory[name]:.0f} MiB") for name, t in times.items()],
    )


if __name__ == "__main__":
    main()
