"""The folder that a browser opens: a page, its scripts, and a file of data for each case."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from monai_anomaly import __version__
from monai_anomaly.checks import check_range, root_cause
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.pages.layers import PictureLayers, VolumeLayers, load, load_labels
from monai_anomaly.pages.run_folder import CaseOfRun, RunFolder, common_cases

logger = logging.getLogger(__name__)

_ASSETS = ("page.css", "page.js", "charts.js", "viewer.js", "niivue.js", "LICENSES.txt")
_THUMBNAIL = 240
_MARK = 'id="content" type="application/json"'


def write_report(
    folders: Sequence[str | Path], out: str | Path | None = None, anonymize: bool = False, max_size: int = 256
) -> Path:
    """Write a page of one run, or of several on the same cases side by side, and return its path.

    Disk: about 1 MB for a million voxels of image and map each. Time grows with the cases; memory holds one at a time.

    Args:
        folders: ``output_dir`` of inferences or evaluations.
        out: folder of the page; "report" in the first of them where it is None.
        anonymize: number the cases instead of naming them.
        max_size: pixels or voxels along a side at most, but for the slices of a volume, which are all there.

    Raises:
        FileNotFoundError: a folder that is not a run's.
        ValueError: runs that have no case in common, or ``out`` is a run's own folder.
    """
    check_range("max_size", max_size, 16)
    runs = [RunFolder(folder) for folder in folders]
    names = common_cases(runs)
    site = _Site(Path(out) if out is not None else runs[0].folder / "report", anonymize)
    shown = {name: f"case {number:04d}" if anonymize else name for number, name in enumerate(names, 1)}
    cases = []
    for number, name in enumerate(tqdm(names, desc="pages", unit="case", disable=None), 1):
        record = _described(shown[name], [run.cases[name] for run in runs])
        record |= site.add_case(number, [run.cases[name] for run in runs], max_size)
        cases.append(record)
    known = [run.name for run in runs]
    titles = [run.name if known.count(run.name) == 1 else str(run.folder) for run in runs]
    parts: list[dict[str, Any]] = []
    for number, (run, title) in enumerate(zip(runs, titles, strict=True), 1):
        name = f"run {number}" if anonymize else title
        figures = site.add_figures(number, run.figures)
        parts.append({"name": name, "tables": run.tables, "figures": figures, "failures": _failures(run, anonymize)})
    return site.finish({"title": " beside ".join(part["name"] for part in parts), "runs": parts, "cases": cases})


def write_view(
    image: str | Path,
    anomaly_map: str | Path | None,
    label: str | Path | None,
    out: str | Path,
    slice_axis: int = 2,
    max_size: int = 512,
) -> Path:
    """Write a page of one volume or image with its map and label, and return its path.

    Args:
        image: any file that `FileReader` reads.
        anomaly_map: on its grid, None for none.
        label: on its grid, None for none.
        out: folder of the page.
        slice_axis: voxel axis slices follow one another along, 0 to 2.
        max_size: see `write_report`.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: they are not on one grid.
    """
    check_range("max_size", max_size, 16)
    given = {"image": image, "map": anomaly_map, "label": label}
    found = {name: Path(file) for name, file in given.items() if file is not None}
    for name, file in found.items():
        if not file.exists():
            msg = f"{name} {str(file)!r} does not exist; pass an image, a volume, or a folder of slices."
            raise FileNotFoundError(msg)
    labels = [found["label"]] if "label" in found else []
    case = CaseOfRun(found["image"].name, "", found["image"], labels, found.get("map"), slice_axis=slice_axis)
    site = _Site(Path(out))
    record = {**_described(case.name, [case]), **site.add_case(1, [case], max_size, lenient=False)}
    title = " with ".join(file.name for file in found.values())
    return site.finish(
        {"title": title, "runs": [{"name": "", "tables": {}, "figures": [], "failures": []}], "cases": [record]}
    )


def _failures(run: RunFolder, anonymize: bool) -> list[dict[str, str]]:
    """Return the cases that failed; reasons have file names in them."""
    if anonymize and run.failures:
        return [{"case": "–", "reason": f"{len(run.failures)} cases failed"}]
    return run.failures


class _Site:
    """The folder, with what is in it already."""

    def __init__(self, folder: Path, anonymize: bool = False) -> None:
        self.folder, self.anonymize = folder, anonymize
        if (folder / "files.csv").exists():
            msg = f"{str(folder)!r} holds a run; pass another folder for the page (--out DIR)."
            raise ValueError(msg)
        page = folder / "index.html"
        if page.is_file() and _MARK in page.read_text(encoding="utf-8"):  # of an earlier page, and nothing else
            for pattern in ("data/[0-9]*.js", "thumbnails/[0-9]*.jpg", "figures/[0-9]*_[0-9]*.png"):
                for file in folder.glob(pattern):
                    file.unlink()
        for name in _ASSETS:
            source = files("monai_anomaly.pages").joinpath("assets", name)
            write_atomically(folder / "assets" / name, _copier(source.read_bytes()))

    def add_thumbnail(self, number: int, picture: Image.Image) -> str:
        """Write a small picture of a case."""
        name = f"thumbnails/{number:04d}.jpg"
        picture.thumbnail((2 * _THUMBNAIL, _THUMBNAIL))
        small = picture.convert("RGB")
        write_atomically(self.folder / name, lambda path: small.save(path, "JPEG", quality=80))
        return name

    def add_figures(self, run: int, figures: Sequence[Path]) -> list[dict[str, str]]:
        """Copy a run's figures; their names are not those of files."""
        told = []
        for number, figure in enumerate(figures, 1):
            name = f"figures/{run}_{number}.png"
            write_atomically(self.folder / name, _copier(figure.read_bytes()))
            told.append({"file": name, "title": "" if self.anonymize else figure.stem.replace("_", " ")})
        return told

    def add_case(self, number: int, cases: Sequence[CaseOfRun], max_size: int, lenient: bool = True) -> dict[str, Any]:
        """Write the layers of a case, and a small picture; where they cannot be read, say why on the page."""
        try:
            data, glance = _layers(cases, max_size, lenient)
        except Exception as error:
            if not lenient:
                raise
            logger.warning("case %d of the page has no viewer: %s", number, root_cause(error))
            return {"problem": "its files cannot be shown." if self.anonymize else root_cause(error)}
        if self.anonymize and data["notes"]:
            data["notes"] = ["A layer of this case cannot be shown."]
        name = f"data/{number:04d}.js"
        text = f"monaiAnomaly.take({number},{json.dumps(data, allow_nan=False)});\n"
        write_atomically(self.folder / name, lambda path: path.write_text(text, encoding="utf-8"))
        return {"data": name, "number": number, "thumbnail": self._thumbnail(number, cases, glance)}

    def _thumbnail(self, number: int, cases: Sequence[CaseOfRun], glance: np.ndarray) -> str:
        """Make a small picture of the run's own, which has the case's name on it, or of the image."""
        drawn = next((case.picture for case in cases if case.picture is not None), None)
        if drawn is not None and not self.anonymize:
            try:
                return self.add_thumbnail(number, Image.open(drawn))
            except OSError as error:
                logger.warning("%s cannot be read: %s", drawn.name, root_cause(error))
        return self.add_thumbnail(number, Image.fromarray(glance))

    def finish(self, content: dict[str, Any]) -> Path:
        """Write the page."""
        known = json.dumps({**_finite(content), "version": __version__}, allow_nan=False)
        template = files("monai_anomaly.pages").joinpath("assets", "index.html").read_text(encoding="utf-8")
        escaped = known.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        page = template.replace("{{content}}", escaped)
        return write_atomically(self.folder / "index.html", lambda path: path.write_text(page, encoding="utf-8"))


def _copier(content: bytes) -> Callable[[Path], int]:
    return lambda path: path.write_bytes(content)


def _described(name: str, cases: Sequence[CaseOfRun]) -> dict[str, Any]:
    """Return what the table says of a case."""
    runs = [{"scores": case.scores, "slices": case.slice_scores} for case in cases]
    return {"name": name, "group": cases[0].group, "runs": runs}


def _layers(cases: Sequence[CaseOfRun], max_size: int, lenient: bool) -> tuple[dict[str, Any], np.ndarray]:
    """Return a case's data for the viewer, and its picture at a glance; a bad label costs its layer alone."""
    first = cases[0]
    image = load(first.image)
    layers: VolumeLayers | PictureLayers
    layers = VolumeLayers(image, first.slice_axis, max_size) if image.ndim == 4 else PictureLayers(image, max_size)
    found: dict[str, Any] = {"kind": "volume" if image.ndim == 4 else "image", **layers.described(), "notes": []}
    found |= {"image": layers.picture(), "truth": None, "runs": []}
    try:
        truth = load_labels(first.labels)
        found["truth"] = None if truth is None else layers.outlines(truth, "The label")
    except Exception as error:
        if not lenient:
            raise
        found["notes"].append(f"The label cannot be shown: {root_cause(error)}")
    for case in cases:
        part: dict[str, Any] = {"map": None, "prediction": None}
        if case.anomaly_map is not None:
            part |= layers.values(load(case.anomaly_map))
            if part["map"] is None:
                found["notes"].append("The map has no number in it.")
        if case.prediction is not None:
            part["prediction"] = layers.outlines(load(case.prediction), "The segmentation")
        found["runs"].append(part)
    scores, count = np.nan_to_num(first.slice_scores, nan=-np.inf), int(found.get("count", 1))
    best = int(scores.argmax()) if len(scores) == count else count // 2
    return found, layers.glance(best)


def _finite(value: Any) -> Any:
    """Return plain values with None for what is not a number: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
