"""The detectors that can be compared: which bundle trains each, by which configs, and for which images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODALITIES = {"oct": 3, "fundus": 2, "brain_mri": 3, "liver_ct": 3}
"""What images are of, and how many dimensions they have."""

_VOLUMES = ("oct", "brain_mri", "liver_ct")
_ALL = ("oct", "fundus", "brain_mri", "liver_ct")


@dataclass(frozen=True)
class Detector:
    """How a detector is trained and makes maps.

    Args:
        title: in the tables.
        bundle: its stem.
        modalities: images it is for, of `MODALITIES`.
        train: the configs of each training, one after the other.
        maps: configs that write the maps.
        weights: file that the last training leaves in ``ckpt_dir``.
        volume: config laid over all of them for volumes, None where the bundle is for volumes anyway.
        maps_dir: maps go to ``<maps_dir>/<guide>``; otherwise to ``output_dir``.
        small: overrides that train it in minutes of a CPU, by training, "maps" for these; "" for all.
        small_of: more of them, by modality.
    """

    title: str
    bundle: str
    modalities: tuple[str, ...]
    train: tuple[tuple[str, ...], ...]
    maps: tuple[str, ...]
    weights: str = "model.pt"
    volume: str | None = None
    maps_dir: bool = False
    small: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    small_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _guide(title: str, name: str, **small: Any) -> Detector:
    stage = f"train_{name}"
    shared = {"image_size": [96, 128], "calibration_fraction": 0.2}
    return Detector(
        title,
        "amnet",
        ("oct",),
        ((stage,),),
        (stage, "anomaly_maps"),
        f"{name}.pt",
        maps_dir=True,
        small={"": {**shared, **small}},
    )


_BANK = {"weights": "random", "calibration_fraction": 0.2}
_LOCALIZE = {"max_epochs": 40, "learning_rate": 0.001, "warmup_epochs": 2}

DETECTORS: dict[str, Detector] = {
    "resad": Detector(
        "ReSAD",
        "resad",
        _ALL,
        (("train",),),
        ("inference",),
        volume="data_volume",
        small={"": {"image_size": [192, 192]}, "train": _BANK},
    ),
    "patchcore": Detector(
        "PatchCore",
        "resad",
        _ALL,
        (("train", "patchcore"),),
        ("inference", "patchcore"),
        volume="data_volume",
        small={"": {"image_size": [192, 192]}, "train": _BANK},
    ),
    "resynthdetect": Detector(
        "ReSynthDetect",
        "resynthdetect",
        _ALL,
        (("train_reconstruction",), ("train_localization",)),
        ("inference",),
        volume="data_volume",
        small={
            "": {"image_size": [192, 192], "channels": [16, 32, 64, 128, 128]},
            "train_reconstruction": {"max_epochs": 4, "learning_rate": 0.001},
            "train_localization": _LOCALIZE,
        },
        small_of={"oct": {"image_size": [96, 128]}, "brain_mri": {"image_size": [96, 96]}},
    ),
    "ascnet": Detector(
        "ASC-Net",
        "ascnet",
        ("brain_mri",),
        (("train",),),
        ("inference",),
        small={
            "": {"image_size": [96, 96], "channels": [8, 16, 32, 64, 128]},
            "train": {
                "batch_size": 8,
                "m_batch_size": 8,
                "d_batch_size": 16,
                "learning_rate": 0.001,
                "d_epochs": 2,
                "m_epochs": 10,
                "cycles": [2, 1],
                "stop_at_peaks": 0,
            },
        },
    ),
    "fanogan": _guide(
        "f-AnoGAN",
        "fanogan",
        channels=8,
        batch_size=8,
        patches_per_slice=8,
        d_train_steps=2,
        gan_epochs=20,
        encoder_epochs=30,
        learning_rate=0.0005,
        encoder_learning_rate=0.0005,
        side="darker",
        sigma=2,
        overlap=0.875,
    ),
    "nsa": _guide("NSA", "nsa", max_epochs=50),
    "fluidregnet": _guide(
        "FluidRegNet",
        "fluidregnet",
        channels=4,
        anomaly_map="soft",
        dice_weight=3,
        max_epochs=30,
        pretrain_epochs=3,
        learning_rate=0.004,
        batch_size=4,
    ),
    "ganomaly": Detector(
        "GANomaly",
        "agm",
        ("oct",),
        (("train_ganomaly",),),
        ("train_ganomaly", "anomaly_maps"),
        "ganomaly.pt",
        volume="data_volume",
        maps_dir=True,
        small={
            "": {"image_size": [128, 128], "channels": 16, "side": "darker", "sigma": 2},
            "train_ganomaly": {"max_epochs": 100},
        },
    ),
}
"""By the name that the command takes."""
