"""Retinal OCT as the devices write it: A-scans along the first axis, spacing in mm, the eye, and layer lines."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, optional_import

from monai_anomaly.checks import check_option
from monai_anomaly.data.claims import check_claim, quiet
from monai_anomaly.keys import LATERALITY, LAYERS, OCT_AXES

logger = logging.getLogger(__name__)

_ABSENT = 1e9
"""Heidelberg marks what was not measured by the largest float."""


class _OCTReader(ImageReader):
    """What the readers of one device's files share: they take one file, and open it in `get_data`."""

    suffixes: tuple[str, ...] = ()

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether the name ends in one of the device's suffixes."""
        return str(_one(filename)).lower().endswith(self.suffixes)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Path:
        """Return the file; `get_data` opens it, since LoadImage would try other readers after an error here."""
        del kwargs
        return _one(data)


def _one(data: Sequence[PathLike] | PathLike) -> Path:
    return Path(str(data if isinstance(data, (str, Path)) else data[0]))


class SpectralisReader(_OCTReader):
    """Read a Heidelberg Spectralis export, .vol or .e2e, as a volume (rows, A-scans, B-scans), float32.

    `eyepy <https://github.com/MedVisBonn/eyepy>`_ reads the file (``pip install "monai-anomaly[oct]"``). The metadata
    has the spacing and the direction of the scan as affine, ``"laterality"`` ("OD" right, "OS" left), and
    ``"layers"``: by name ("BM" is Bruch's membrane), each A-scan's row, (A-scans, B-scans), NaN where there is none.
    Flattening uses them. Names, numbers and dates of the patient are not taken over.

    Args:
        intensity: "display": the logarithm that Heidelberg's own viewer shows, in [0, 1], without its 8 bits; "raw":
            the reflectivity as stored. What was not measured is 0.
        index: of the volume in an .e2e file that holds several.

    Raises:
        ImportError: eyepy is not installed.
        ValueError: the file is cut off, broken, no volume (circle and star scans), or, without ``index``, an .e2e with
            several volumes.
    """

    suffixes = (".vol", ".e2e")

    def __init__(self, intensity: str = "display", index: int | None = None) -> None:
        super().__init__()
        self.index = index
        self.intensity = check_option("intensity", intensity, ("display", "raw"))

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array and its metadata."""
        check_claim(img)
        if img.suffix.lower() == ".e2e":
            array, meta = _from_eyepy(img, "HeE2eReader", self._one_of)
        else:
            array, meta = _from_eyepy(img, "import_heyex_vol")
        values = np.nan_to_num(array.astype(np.float32, copy=False), nan=0.0)
        values = np.where(values > 1 + 1e-3, 0.0, values) if img.suffix.lower() == ".e2e" else values
        values = np.where(values > _ABSENT, 0.0, values)
        return (as_displayed(values) if self.intensity == "display" else values), meta

    def _one_of(self, reader: Any) -> Any:
        """Return the volume of an .e2e file, or the one that was asked for."""
        with reader as opened:
            volumes = opened.volumes
        if self.index is None and len(volumes) != 1:
            msg = f"{len(volumes)} volumes, expected one: pass index=0 and so on, or export each alone"
            raise ValueError(msg)
        return volumes[self.index or 0]


class TopconReader(_OCTReader):
    """Read a Topcon .fda file as a volume (rows, A-scans, B-scans) of the type it was stored in.

    eyepy reads it through OCT-Converter (``pip install "eyepy[fda]"``). Metadata as of `SpectralisReader`.

    Raises:
        ImportError: eyepy or OCT-Converter is not installed.
        ValueError: the file is broken.
    """

    suffixes = (".fda",)

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array and its metadata."""
        return _from_eyepy(img, "import_topcon_fda")


class DicomOCTReader(_OCTReader):
    """Read a DICOM file of many frames, Ophthalmic Tomography, as a volume (rows, A-scans, B-scans).

    Series of one file per slice are for MONAI's ITKReader, which `FileReader` hands them to. pydicom reads the file
    (``pip install "monai-anomaly[oct]"``). Spacing comes from the measures shared by all frames, the distance of
    B-scans from their positions, else from the slice thickness. Nothing that names the patient is taken over.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: the file is cut off or broken, or has color.
    """

    suffixes = (".dcm", ".dicom")

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array and its metadata."""
        pydicom, found = optional_import("pydicom")
        if not found:
            msg = f'{img.name} needs pydicom: pip install "monai-anomaly[oct]".'
            raise ImportError(msg)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = pydicom.dcmread(img)
                _check_frames(data)
                frames = np.asarray(data.pixel_array)
        except Exception as error:
            msg = f"{img.name} cannot be read ({error}); expected a whole DICOM file with gray frames."
            raise ValueError(msg) from error
        frames = frames[None] if frames.ndim == 2 else frames
        return np.ascontiguousarray(frames.transpose(1, 2, 0)), _dicom_meta(data, frames.shape, img)


def _check_frames(data: Any) -> None:
    """Refuse more pixels than the file has, and color."""
    if int(data.SamplesPerPixel) != 1:
        msg = f"{data.SamplesPerPixel} samples per pixel, expected 1"
        raise ValueError(msg)
    frames = int(getattr(data, "NumberOfFrames", 1) or 1)
    needed = frames * int(data.Rows) * int(data.Columns) * int(data.BitsAllocated) // 8
    there = len(data.PixelData)
    if not data.file_meta.TransferSyntaxUID.is_compressed and needed > there:
        msg = f"{frames} x {data.Rows} x {data.Columns} take {needed} bytes, the file has {there}"
        raise ValueError(msg)


def _dicom_meta(data: Any, shape: Sequence[int], file: Path) -> dict[str, Any]:
    shared = _first(data, "SharedFunctionalGroupsSequence")
    frames = getattr(data, "PerFrameFunctionalGroupsSequence", None) or []
    own = _first(frames[0], "PixelMeasuresSequence") if frames else None
    measures = _first(shared, "PixelMeasuresSequence") or own or data
    rows, columns = (float(value) for value in getattr(measures, "PixelSpacing", None) or (0, 0))
    places = [
        np.array([float(value) for value in plane.ImagePositionPatient])
        for frame in frames
        if (plane := _first(frame, "PlanePositionSequence")) is not None and "ImagePositionPatient" in plane
    ]
    steps = [float(np.linalg.norm(b - a)) for a, b in pairwise(places)]
    between = float(np.median(steps)) if steps else float(getattr(measures, "SliceThickness", None) or 0)
    eye = getattr(data, "ImageLaterality", None) or getattr(data, "Laterality", None)
    anatomy = _first(shared, "FrameAnatomySequence")
    eye = eye or getattr(anatomy, "FrameLaterality", None)
    size = (shape[1], shape[2], shape[0])
    affine = _affine(file, (rows, columns, between), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
    return oct_metadata(file, size, affine, {"R": "OD", "L": "OS"}.get(str(eye), ""), {})


def _first(data: Any, name: str) -> Any:
    items = getattr(data, name, None)
    return items[0] if items else None


def as_displayed(reflectivity: np.ndarray) -> np.ndarray:
    """Return (ln(x + 2.44e-4) + 8.3) / 8.285 clipped to [0, 1], 0 for 0: Heidelberg's contrast, as eyepy has it."""
    shown = np.log(np.clip(reflectivity, 0, 1).astype(np.float32) + np.float32(2.44e-4))
    return np.where(reflectivity > 0, np.clip((shown + 8.3) / 8.285, 0, 1), 0).astype(np.float32)


def oct_metadata(
    file: Path,
    shape: Sequence[int],
    affine: np.ndarray,
    laterality: str = "",
    layers: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return the metadata of a volume (rows, A-scans, B-scans).

    Args:
        file: it came from.
        shape: of the volume.
        affine: (4, 4), voxels to mm in RAS+.
        laterality: "OD", "OS" or "" where nobody says.
        layers: rows by name, (A-scans, B-scans).
    """
    return {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        OCT_AXES: np.array([0, 1, 2]),
        LATERALITY: laterality,
        LAYERS: dict(layers or {}),
        "filename_or_obj": str(file),
    }


def _from_eyepy(
    file: Path, function: str, choose: Callable[[Any], Any] = lambda volume: volume
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a volume as eyepy reads it, with its own values; ``choose`` takes it out of what the function gives."""
    read: Callable[..., Any]
    read, found = optional_import("eyepy.io.he" if function == "HeE2eReader" else "eyepy", name=function)
    if not found:
        msg = f'{file.name} needs eyepy: pip install "monai-anomaly[oct]".'
        raise ImportError(msg)
    try:
        with quiet("eyepy.io.HeVolReader"):  # it warns of every export with fewer layers than there could be
            volume = choose(read(file))
        volume.set_intensity_transform(lambda values: values)
        array = np.ascontiguousarray(np.asarray(volume.data).transpose(1, 2, 0))
        lines = {layer.name: np.asarray(layer.data, dtype=np.float32) for layer in volume.layers.values()}
        layers = {name: np.ascontiguousarray(rows.T) for name, rows in lines.items()}
        affine = _affine_of_scan(file, volume)
    except ImportError as error:
        extra = "eyepy[fda]" if function == "import_topcon_fda" else "monai-anomaly[oct]"
        msg = f'{file.name} needs more than eyepy alone: pip install "{extra}".'
        raise ImportError(msg) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{file.name} cannot be read ({reason}); expected a whole volume scan: export it again."
        raise ValueError(msg) from error
    eye = str(volume.laterality or "").strip("\x00 ")
    return array, oct_metadata(file, array.shape, affine, eye if eye in {"OD", "OS"} else "", layers)


def _affine_of_scan(file: Path, volume: Any) -> np.ndarray:
    """Return the affine of a raster of parallel B-scans, from where each begins and ends on the fundus."""
    scans = volume.meta["bscan_meta"]
    first, last = (np.array([scan["start_pos"], scan["end_pos"]], dtype=float) for scan in (scans[0], scans[-1]))
    along, across = first[1] - first[0], last[0] - first[0]
    in_mm = volume.meta["scale_unit"] == "mm"
    spacing = [float(value) if in_mm else 0.0 for value in (volume.scale_y, volume.scale_x, volume.scale_z)]
    along = along / np.linalg.norm(along) if np.linalg.norm(along) else np.array([1.0, 0.0])
    across = across - across @ along * along
    across = across / np.linalg.norm(across) if np.linalg.norm(across) else np.array([-along[1], along[0]])
    start = first[0].tolist() if in_mm else (0.0, 0.0)
    return _affine(file, spacing, along.tolist(), across.tolist(), start)


def _affine(
    file: Path, spacing: Sequence[float], along: Sequence[float], across: Sequence[float], start: Sequence[float]
) -> np.ndarray:
    """Return voxels (row, A-scan, B-scan) to mm in RAS+.

    The fundus is seen from the front, x to the patient's left and y downwards; rows go backwards into the eye.

    Args:
        file: for the warning of spacings that the header does not tell, which become 1.
        spacing: of rows, A-scans, B-scans in mm; 0 or less where nobody says.
        along: direction (x, y) of the A-scans on the fundus.
        across: of the B-scans.
        start: of the first A-scan, in mm.
    """
    told = dict(zip(("rows", "A-scans", "B-scans"), spacing, strict=True))
    unknown = [name for name, mm in told.items() if not 0 < mm < float("inf")]
    if unknown:
        logger.warning("%s does not tell the spacing of %s: 1 mm is taken.", file.name, ", ".join(unknown))
    rows, a_scans, b_scans = (1.0 if name in unknown else float(mm) for name, mm in told.items())
    affine = np.eye(4)
    affine[:3, 0] = (0, -rows, 0)
    affine[:3, 1] = (-along[0] * a_scans, 0, -along[1] * a_scans)
    affine[:3, 2] = (-across[0] * b_scans, 0, -across[1] * b_scans)
    affine[:3, 3] = (-start[0], 0, -start[1])
    return affine + 0.0  # no negative zeros
