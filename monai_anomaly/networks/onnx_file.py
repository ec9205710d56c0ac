"""Networks as ONNX files, which carry what they need beside the weights, and run without torch."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn

from monai_anomaly.checks import check_file
from monai_anomaly.networks.blocks.healthy_calibration import HealthyCalibration

_KEY = "monai_anomaly"
_INSTALL = "pip install 'monai_anomaly[onnx]'"


def export_onnx(
    network: nn.Module,
    example: Tensor,
    metadata: Mapping[str, Any],
    any_size: bool = False,
    tolerance: float = 1e-4,
) -> bytes:
    """Return a network as an ONNX file that was run beside it.

    The network itself is copied first, and stays as it is.

    Args:
        network: in any mode; exported in evaluation mode.
        example: an image (1, C, H, W).
        metadata: plain values, stored in the file; calibration and provenance of a detector are added.
        any_size: the file takes other heights and widths than the example's, and batches; takes five times as long.
        tolerance: largest difference to the network's own output, relative to the largest value or 1.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        RuntimeError: the file's output differs, or the network is bound to one size.
    """
    _check_installed("onnx", "onnxscript", "onnxruntime")
    fixed = copy.deepcopy(network).cpu().eval()
    described = json.dumps({**metadata, **_described(fixed)})
    images = example.detach().cpu().float()
    if any_size:
        images = images.expand(2, -1, -1, -1).contiguous()  # a size of 1 would be taken for a constant
    model = _exported(fixed, images, described, any_size)
    tried = [images]
    if any_size:
        height, width = images.shape[2:]
        tried.append(torch.rand(1, images.shape[1], height + 32, width + 64))
    for one in tried:
        if not _agrees(fixed, model, one, tolerance):
            remedy = "; export it for one size" if one is not images else ""
            name, shape = type(network).__name__, tuple(one.shape)
            msg = (
                f"The exported {name} differs from the network by more than {tolerance:g} on images of {shape}{remedy}."
            )
            raise RuntimeError(msg)
    return model


def _check_installed(*names: str) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        msg = f"ONNX files need {' and '.join(missing)}; install with {_INSTALL}."
        raise ImportError(msg)


def _exported(network: nn.Module, images: Tensor, described: str, any_size: bool) -> bytes:
    free = torch.export.Dim.AUTO
    shapes = ({0: free, 2: free, 3: free},) if any_size else None
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            network, (images,), dynamo=True, verbose=False, dynamic_shapes=shapes, input_names=["image"]
        )
    model = program.model_proto  # type: ignore[union-attr]
    entry = model.metadata_props.add()
    entry.key, entry.value = _KEY, described
    return bytes(model.SerializeToString())


def _agrees(network: nn.Module, model: bytes, images: Tensor, tolerance: float) -> bool:
    session = _session(model)
    try:
        with torch.no_grad():
            expected = network(images)
        expected = expected if isinstance(expected, Tensor) else expected[0]
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    except Exception:  # noqa: BLE001 - a size that became a constant, in onnxruntime's own kinds of errors
        return False
    scale = max(1.0, float(expected.abs().max()))
    return found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance * scale


def _described(network: nn.Module) -> dict[str, Any]:
    """Return what pipelines ask a detector for, beside its maps."""
    calibration = getattr(network, "calibration", None)
    found: dict[str, Any] = {"network": type(network).__name__}
    if isinstance(calibration, HealthyCalibration) and calibration.is_fitted:
        found["calibration"] = {"levels": calibration.levels.tolist(), "percentiles": list(calibration.percentiles)}
    if hasattr(network, "feature_provenance"):
        found["feature_provenance"] = str(network.feature_provenance)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter tells of itself."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _session(model: bytes | str, num_threads: int = 0) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(model, options, providers=providers)


class OnnxNetwork(nn.Module):
    """A network in a file of `export_onnx`, run by onnxruntime; on a GPU where onnxruntime has one.

    Args:
        file: the ONNX file.

    Shape:
        input (B, C, H, W), of another size than the exported one where the file allows; output as the network's.

    Raises:
        FileNotFoundError: no such file.
        ImportError: onnxruntime is not installed.
        ValueError: not a file of `export_onnx`, or images of a size it does not take.
    """

    def __init__(self, file: str | Path) -> None:
        super().__init__()
        check_file("onnx_path", file, "export a network first (python -m monai_anomaly export BUNDLE).")
        _check_installed("onnxruntime")
        try:
            self._run = _session(str(file), torch.get_num_threads())
            self.metadata = json.loads(self._run.get_modelmeta().custom_metadata_map[_KEY])
        except Exception as error:
            msg = f"{Path(file).name} is no network of 'python -m monai_anomaly export': {error}"
            raise ValueError(msg) from error
        self.feature_provenance = self.metadata.get("feature_provenance", "")
        known = self.metadata.get("calibration", {})
        self.calibration = HealthyCalibration(*known.get("percentiles", ()))
        if known:
            self.calibration.fit(torch.tensor(known["levels"]))

    def forward(self, images: Tensor) -> Tensor:
        """Return what the network returns."""
        entry = self._run.get_inputs()[0]
        plain = convert_to_tensor(images).detach().cpu().float().contiguous()
        parts = plain.split(entry.shape[0]) if isinstance(entry.shape[0], int) else [plain]
        for name, expected, given in zip("CHW", entry.shape[1:], plain.shape[1:], strict=True):
            if isinstance(expected, int) and expected != given:
                sizes = " x ".join(str(one) if isinstance(one, int) else "any" for one in entry.shape)
                got = tuple(plain.shape)
                msg = f"The ONNX file takes images of {sizes}, got {got}: {name} differs; export it anew."
                raise ValueError(msg)
        found = torch.cat([torch.from_numpy(self._run.run(None, {entry.name: part.numpy()})[0]) for part in parts])
        result: Tensor = convert_to_dst_type(found, images)[0]
        return result
