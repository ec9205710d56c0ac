"""Data specs: one YAML file per data set that says where images, masks and labels lie, and what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from monai_anomaly.checks import check_directory, did_you_mean

Spec = dict[str, Any]

PLAIN_LAYOUTS = ("folders", "files")
"""Specs of no data set in particular, which serve images and volumes."""


def specs_folder() -> Path:
    """Return the folder of the specs that come with the package, installed or checked out."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "data_specs", package.parent / "data_specs") if folder.is_dir())


def list_specs() -> list[str]:
    """Return the names of the specs that come with the package."""
    return sorted(path.stem for path in specs_folder().glob("*.yaml"))


def load_spec(name: str | Path) -> Spec:
    """Return a spec by its name or by the path of a YAML file.

    Raises:
        ValueError: no such spec, or one that breaks ``data_specs/schema.json``.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        path = specs_folder() / f"{name}.yaml"
    if not path.is_file():
        known = list_specs()
        hint = did_you_mean(str(name), known)
        msg = f"No data spec {str(name)!r}; expected a YAML file or one of {', '.join(known)}.{hint}"
        raise ValueError(msg)
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    schema = json.loads((specs_folder() / "schema.json").read_text(encoding="utf-8"))
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(spec), key=lambda error: list(error.path))
    if errors:
        listed = "; ".join(f"{'.'.join(map(str, error.path)) or 'the spec'}: {error.message}" for error in errors)
        msg = f"Data spec {path.name} breaks schema.json: {listed}"
        raise ValueError(msg)
    return dict(spec)


def detect_spec(root: str | Path, dimensions: int = 2) -> Spec:
    """Return the spec whose layout ``root`` has; ``files`` (every image below it) where none fits.

    Where several do, the one that asks for more.

    Args:
        root: the data set's folder.
        dimensions: 2 for images, 3 for volumes; only plain layouts serve both.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = check_directory("dataset_dir", root)
    specs = {name: load_spec(name) for name in list_specs()}
    for name, spec in sorted(specs.items(), key=lambda item: -len(item[1]["detect"])):
        fits = spec["dimensions"] == dimensions or name in PLAIN_LAYOUTS
        if fits and spec["detect"] and all(_is_found(folder, p) for p in spec["detect"]):
            return {**spec, "dimensions": dimensions}
    return {**load_spec("files"), "dimensions": dimensions}


def _is_found(folder: Path, alternatives: str) -> bool:
    return any(any(folder.glob(pattern)) for pattern in alternatives.split("|"))
