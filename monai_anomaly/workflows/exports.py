"""Bundles for other programs: an ONNX file, and a folder that MONAI Label serves."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_anomaly.checks import check_file, check_range
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.networks import export_onnx
from monai_anomaly.networks.blocks import HealthyCalibration
from monai_anomaly.workflows.bundles import StrictConfigWorkflow, config_files


def export_bundle(
    bundle: Path, out: str | Path, configs: Iterable[str] = ("inference",), overrides: Mapping[str, Any] | None = None
) -> Path:
    """Write the network of a bundle, with its weights, as an ONNX file that carries its preprocessing.

    Args:
        bundle: its folder.
        out: the file.
        configs: by name, with ``network_def`` and ``ckpt_path``; ``in_channels`` (else 1) and ``image_size`` say what
            the network sees.
        overrides: by id.

    Returns:
        The file.

    Raises:
        FileNotFoundError: no weights.
        ImportError: what an export needs is not installed.
    """
    parser, weights = _parsed(bundle, configs, overrides)
    network = with_weights(parser.get_parsed_content("network_def"), weights)
    channels = parser.get_parsed_content("in_channels") if "in_channels" in parser else 1
    size = [int(side) for side in parser.get_parsed_content("image_size")]
    metadata = {
        "bundle": bundle.name,
        "version": json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"],
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "image_size": size,
        "preprocessing": _with_values(parser, parser["preprocessing"]),
        "inferer": _with_values(parser, parser["inferer"]),
    }
    scales = parser.get_parsed_content("scales") if "scales" in parser else [1]
    model = export_onnx(network, torch.rand(1, channels, *size), metadata, any_size=len(scales) > 1)
    return write_atomically(out, lambda path: path.write_bytes(model))


def export_label_server(
    bundle: Path,
    out: str | Path,
    configs: Iterable[str] = ("inference",),
    overrides: Mapping[str, Any] | None = None,
    threshold: float = 0.5,
) -> Path:
    """Write a bundle, with its weights, as a folder that MONAI Label's ``monaibundle`` app serves.

    MONAI Label reads ``configs/inference.yaml`` alone, fills the network itself, and shows what the postprocessing
    leaves under "pred". So the copy's network comes with its weights, which calibration and thresholds read, and its
    postprocessing ends with the segmentation; where there are maps alone, with where the map, on the scale of healthy
    images, reaches a threshold that the client shows as an option.

    Args:
        bundle: its folder.
        out: the folder, new or empty; its name is the model's.
        configs: by name, later ones laid over earlier.
        overrides: by id.
        threshold: of maps, in [0, 1].

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something.
        FileNotFoundError: no weights.
        ValueError: the network takes more than the image, a threshold out of range, or a name MONAI Label misreads.
    """
    check_range("threshold", threshold, 0, 1)
    folder = _new_folder(out)
    parser, weights = _parsed(bundle, configs, overrides)
    config = {key: value for key, value in parser.get().items() if key not in _OF_A_RUN}
    steps = _steps(parser)
    with_weights(parser.get_parsed_content("network_def"), weights)  # before anything is written
    saved = [step["keys"] for step in steps["postprocessing"] if step["_target_"] == "SaveImaged"]
    label = next((key for key in ("segmentation", "mask") if key in saved), saved[0])
    not_here = ("SaveImaged", _CALIBRATE["_target_"])
    steps["postprocessing"] = [step for step in steps["postprocessing"] if step["_target_"] not in not_here]
    if label not in ("segmentation", "mask"):
        config["displayable_configs"] = {"threshold": threshold}
        step = {"_target_": "AsDiscreted", "keys": label, "threshold": "@displayable_configs::threshold"}
        steps["postprocessing"] += [{**_CALIBRATE, "keys": label}, step]
    steps["postprocessing"].append({"_target_": "CopyItemsd", "keys": label, "names": "pred"})
    config |= {part: {"_target_": "Compose", "transforms": steps[part]} for part in steps}
    config["inferer"] = {"_target_": "monai_anomaly.inferers.CollatingInferer", "inferer": config["inferer"]}
    config |= {"bundle_root": ".", "ckpt_path": "$str(@bundle_root) + '/models/model.pt'"}
    config["bare_network"], config["network_def"] = config["network_def"], "$with_weights(@bare_network, @ckpt_path)"
    imported = [f"$from monai_anomaly.workflows import {name}" for name in ("calibration_of", "with_weights")]
    config["imports"] = [*config["imports"], *imported]
    meta = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    names = meta["network_data_format"]["outputs"]["pred"]["channel_def"]
    names = _class_names(bundle, parser, names) if label == "segmentation" else {"0": "background", "1": "anomaly"}
    meta["network_data_format"]["outputs"]["pred"]["channel_def"] = names

    def write(part: Path) -> None:
        for name in ("configs", "models", "docs"):
            (part / name).mkdir(parents=True)
        file = str(part / "configs" / "inference.yaml")
        ConfigParser.export_config_file(config, file, fmt="yaml", sort_keys=False)
        (part / "configs" / "metadata.json").write_text(json.dumps(meta, indent=4) + "\n", encoding="utf-8")
        shutil.copy(bundle / "LICENSE", part)
        shutil.copy(bundle / "docs" / "README.md", part / "docs")
        shutil.copy(weights, part / "models" / "model.pt")

    return _write_folder(folder, write)


_OF_A_RUN = ("_meta_", "dataset", "dataloader", "data", "handlers", "evaluator", "initialize", "run", "finalize")
_OTHER_TASKS = ("detection", "classification", "deepedit", "deepgrow")
_CALIBRATE = {
    "_target_": "monai_anomaly.transforms.CalibrateAnomalyMapd",
    "calibration": "$calibration_of(@ckpt_path)",  # without a network, which each request would build anew
}


def _new_folder(out: str | Path) -> Path:
    """Return the folder to write, which MONAI Label will not mistake for another task's model."""
    folder = Path(out).resolve()
    taken = next((kind for kind in _OTHER_TASKS if kind in folder.name.lower()), None)
    if taken is not None:
        msg = f"MONAI Label takes {folder.name!r} for a model of {taken} by its name; choose another for the folder."
        raise ValueError(msg)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{str(folder)!r} is there already; pass a new folder, or remove it."
        raise FileExistsError(msg)
    return folder


def _steps(parser: ConfigParser) -> dict[str, list[dict[str, Any]]]:
    """Return the transforms of an inference that needs the image alone.

    Raises:
        ValueError: the configs are not an inference's, or need more.
    """
    parts = ("preprocessing", "postprocessing")
    lacking = [key for key in ("inferer", *parts) if key not in parser]
    steps = {} if lacking else {part: _enabled(parser, part) for part in parts}
    if lacking or not any(step["_target_"] == "SaveImaged" for step in steps["postprocessing"]):
        msg = "The configs are not those of an inference that writes files; expected inference and overlays of it."
        raise ValueError(msg)
    for key, value, what in (("maps", "input", "anomaly maps"), ("organ", "file", "an organ mask")):
        if key in parser and parser.get_parsed_content(key) == value:
            msg = f"This network takes {what} beside the image ({key}: {value}); MONAI Label hands out the image alone."
            raise ValueError(msg)
    return steps


def _class_names(bundle: Path, parser: ConfigParser, names: Mapping[str, str]) -> dict[str, str]:
    """Return the numbers' names: those of the metadata, its last ones by the configs' own."""
    usual = ConfigParser.load_config_file(str(bundle / "configs" / "inference.yaml"))["class_names"]
    listed = [*list(names.values())[: len(names) - len(usual)], *parser.get_parsed_content("class_names")]
    return {str(number): name for number, name in enumerate(listed)}


def _write_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let a function fill a folder, which appears as a whole or not at all."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        write(part)
        if folder.exists():
            folder.rmdir()
        return part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def calibration_of(file: str | Path) -> HealthyCalibration:
    """Return the calibration in a detector's weights.

    Args:
        file: its state dict.

    Raises:
        ValueError: there is none.
    """
    levels = torch.load(file, map_location="cpu", weights_only=True).get("calibration.levels", torch.empty(0))
    calibration = HealthyCalibration()
    calibration.fit(levels)
    return calibration


def with_weights(network: nn.Module, file: str | Path) -> nn.Module:
    """Load a network's weights and return it.

    Args:
        network: the network.
        file: its state dict.

    Raises:
        RuntimeError: weights of another network.
        ValueError: not a file of weights.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever a file that is none makes of it
        msg = f"{str(file)!r} cannot be read as weights ({type(error).__name__}); pass what a training has left."
        raise ValueError(msg) from None
    network.load_state_dict(state)
    return network


def _parsed(bundle: Path, configs: Iterable[str], overrides: Mapping[str, Any] | None) -> tuple[ConfigParser, Path]:
    """Return a bundle's configs and its weights."""
    files = config_files(bundle, configs)
    parser = StrictConfigWorkflow(files, override=overrides, workflow_type=None, logging_file=False).parser
    weights = Path(str(parser.get_parsed_content("ckpt_path")))
    check_file("ckpt_path", weights, "fit the detector first (train.yaml), or pass its weights (--ckpt_path FILE).")
    return parser, weights


def _enabled(parser: ConfigParser, part: str) -> list[dict[str, Any]]:
    """Return the transforms of a part of a config that are not disabled."""
    steps = []
    for index, step in enumerate(parser[part]["transforms"]):
        place = f"{part}::transforms::{index}::_disabled_"
        if isinstance(step, dict) and "_disabled_" in step and bool(parser.get_parsed_content(place)):
            continue
        kept = {key: value for key, value in step.items() if key != "_disabled_"} if isinstance(step, dict) else step
        steps.append(kept)
    return steps


def _with_values(parser: Any, node: Any) -> Any:
    """Return a part of a config, references replaced by what they refer to as far as that is no expression."""
    if isinstance(node, dict):
        return {key: _with_values(parser, value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_values(parser, value) for value in node]
    if isinstance(node, str) and node.startswith("@") and node[1:] in parser:
        return _with_values(parser, parser[node[1:]])
    return node
