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
        RuntimeError: the file's output differs, the network is bound to one size, or larger than ONNX's 2 GB.
    """
    _check_installed("onnx", "onnxscript", "onnxruntime")
    fixed = copy.deepcopy(network).cpu().eval()
    described = json.dumps({**metadata, **_described(fixed)})
    images = example.detach().cpu().float()
    if any_size:
        images = images.expand(2, -1, -1, -1).contiguous()  # a size of 1 would be taken for a constant
    exported = _WithCuts(fixed) if hasattr(fixed, "cuts") else fixed
    model = _exported(exported, images, described, any_size)
    tried = [images]
    if any_size:
        height, width = images.shape[2:]
        tried.append(torch.rand(1, images.shape[1], height + 32, width + 64))
    for one in tried:
        difference = _difference(exported, model, one, tolerance)
        if difference:
            remedy = "; export it for one size" if one is not images else ""
            msg = f"The exported {type(network).__name__}, on images of {tuple(one.shape)}: {difference}{remedy}."
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
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:
        msg = f"An ONNX file holds 2 GB: {error}; a smaller memory bank may fit (bank_fraction), or another network."
        raise RuntimeError(msg) from error


class _WithCuts(nn.Module):
    """An `ASCNet` whose second output are its cuts, (B, 3, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return map and cuts."""
        cuts = self.network.cuts(images)  # type: ignore[operator]
        return self.network.map_of(cuts[2]), torch.cat(cuts, 1)  # type: ignore[operator]


def _difference(network: nn.Module, model: bytes, images: Tensor, tolerance: float) -> str:
    """Return how the file's outputs differ from the network's; nothing where they do not."""
    try:
        with torch.no_grad():
            expected = network(images)
        session = _session(model)
        found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    except Exception as error:  # noqa: BLE001 - a size that became a constant, in onnxruntime's own kinds of errors
        return f"it does not run ({' '.join(str(error).split())[:200]})"
    for ours, array in zip([expected] if isinstance(expected, Tensor) else expected, found, strict=False):
        theirs = torch.from_numpy(array)
        if theirs.shape != ours.shape:
            return f"its output is {tuple(theirs.shape)}, the network's {tuple(ours.shape)}"
        apart = float((theirs - ours).abs().max()) / max(1.0, float(ours.abs().max()))
        if not apart <= tolerance:
            return f"it differs from the network by {apart:.1e}, more than {tolerance:g}"
    return ""


def _described(network: nn.Module) -> dict[str, Any]:
    """Return what pipelines ask a detector for, beside its maps."""
    calibration = getattr(network, "calibration", None)
    found: dict[str, Any] = {"network": type(network).__name__}
    if isinstance(calibration, HealthyCalibration) and calibration.is_fitted:
        found["calibration"] = {"levels": calibration.levels.tolist(), "percentiles": list(calibration.percentiles)}
    if hasattr(network, "cuts"):
        found |= {"threshold": network.threshold, "dark_lesions": network.dark_lesions}
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
        self.threshold = float(self.metadata.get("threshold", "nan"))
        self.dark_lesions = bool(self.metadata.get("dark_lesions", False))
        known = self.metadata.get("calibration", {})
        self.calibration = HealthyCalibration(*known.get("percentiles", ()))
        if known:
            self.calibration.fit(torch.tensor(known["levels"]))

    def forward(self, images: Tensor) -> Tensor:
        """Return what the network returns."""
        return self._outputs(images)[0]

    def cuts(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what `ASCNet.cuts` returns, where the file is an ASCNet's."""
        return torch.split(self._outputs(images)[1], 1, dim=1)

    def map_of(self, reconstruction: Tensor) -> Tensor:
        """Return what `ASCNet.map_of` returns."""
        return 1 - reconstruction if self.dark_lesions else reconstruction

    def _outputs(self, images: Tensor) -> list[Tensor]:
        entry = self._run.get_inputs()[0]
        plain = convert_to_tensor(images).detach().cpu().float().contiguous()
        parts = plain.split(entry.shape[0]) if isinstance(entry.shape[0], int) else [plain]
        for name, expected, given in zip("CHW", entry.shape[1:], plain.shape[1:], strict=True):
            if isinstance(expected, int) and expected != given:
                sizes = " x ".join(str(one) if isinstance(one, int) else "any" for one in entry.shape)
                got = tuple(plain.shape)
                msg = f"The ONNX file takes images of {sizes}, got {got}: {name} differs; export it anew."
                raise ValueError(msg)
        found = [self._run.run(None, {entry.name: part.numpy()}) for part in parts]
        joined = [torch.cat([torch.from_numpy(array) for array in arrays]) for arrays in zip(*found, strict=True)]
        return [convert_to_dst_type(one, images)[0] for one in joined]
