"""Running bundles: where they lie, what guards a run, strict overrides, short errors."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow

from monai_anomaly import ranks
from monai_anomaly.checks import check_directory, check_file, check_writable, did_you_mean
from monai_anomaly.data.folder_lock import lock_folder


def bundles_folder() -> Path:
    """Return the folder of the bundles that come with the package, installed or checked out."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "bundles", package.parent / "bundles") if folder.is_dir())


def list_bundles() -> list[Path]:
    """Return the bundles that come with the package."""
    return sorted(path.parents[1] for path in bundles_folder().glob("*/configs/metadata.json"))


def find_bundle(name: str) -> Path:
    """Return a bundle's folder by its path, its name, or its stem ("resad"); the working directory's, where it is one.

    Raises:
        ValueError: no bundle of that name.
    """
    here = Path.cwd()
    if (here / "configs" / "metadata.json").is_file() and here.name.split("_")[0] == name:
        return here
    if (Path(name) / "configs" / "metadata.json").is_file():
        return Path(name).resolve()
    for folder in list_bundles():
        if name in {folder.name, folder.name.split("_")[0]}:
            return folder
    known = [folder.name.split("_")[0] for folder in list_bundles()]
    msg = f"No bundle {name!r}; expected a bundle's folder or one of {', '.join(known)}.{did_you_mean(name, known)}"
    raise ValueError(msg)


def config_files(bundle: Path, names: Iterable[str]) -> list[str]:
    """Return the bundle's configs of these names, in this order.

    Raises:
        ValueError: the bundle has no such config.
    """
    files = []
    for name in names:
        file = bundle / "configs" / f"{name.removesuffix('.yaml')}.yaml"
        if not file.is_file():
            known = sorted(path.stem for path in file.parent.glob("*.yaml"))
            msg = (
                f"{bundle.name} has no config {name!r}; expected one of {', '.join(known)}.{did_you_mean(name, known)}"
            )
            raise ValueError(msg)
        files.append(str(file))
    return files


def guard(dataset_dir: Any, output_dir: Any, ckpt_path: Any = None, part: str = "") -> None:
    """Stop a run that cannot do its job, before it starts.

    Args:
        dataset_dir: folder of the data.
        output_dir: folder to write to, made where it is missing.
        ckpt_path: fitted weights, None where none are needed.
        part: see `lock_folder`.

    Raises:
        FileNotFoundError: no data folder, or no weights.
        PermissionError: the output folder is not writable.
        RuntimeError: another run writes to the output folder, or several processes each would do the whole work.
        TypeError: a path is a number.
    """
    if dataset_dir is None:
        msg = "dataset_dir is not given; pass the folder that holds the data (--dataset_dir DIR)."
        raise FileNotFoundError(msg)
    check_directory("dataset_dir", dataset_dir)
    ranks.check_joined()
    folder = check_writable("output_dir", output_dir)
    if ranks.is_first():
        lock_folder(folder, part)
    ranks.wait()
    if ckpt_path is not None:
        check_file(
            "ckpt_path", ckpt_path, "fit the detector first (train.yaml), or pass its weights (--ckpt_path FILE)."
        )


def check_flags(**flags: Any) -> None:
    """Check that switches are switches: ``python -m monai.bundle run`` passes "--amp false" on as text, which is true.

    Raises:
        TypeError: neither True nor False.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            capital = str(flag).capitalize()
            remedy = f"--{name} {capital if capital in ('True', 'False') else 'True'}"
            msg = f"{name} must be True or False, got {flag!r}; with monai.bundle write it with a capital ({remedy})."
            raise TypeError(msg)


class StrictConfigWorkflow(ConfigWorkflow):
    """MONAI's ConfigWorkflow that refuses overrides of ids the configs do not have.

    Args:
        config_file: as for ConfigWorkflow.
        override: values by id; ``::`` reaches inside.

    Raises:
        ValueError: an unknown id; the message names the nearest one.
    """

    def __init__(
        self, config_file: str | list[str], *, override: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(config_file=config_file, **kwargs)
        pairs = {key: self._value(key, value) for key, value in (override or {}).items()}
        self.parser.update(pairs=pairs)

    def _value(self, key: str, value: Any) -> Any:
        """Return an override's value: text stays text where the config has text, else Python's or YAML's literal."""
        if key not in self.parser:
            known = sorted(_ids(self.parser.get()))
            top = ", ".join(name for name in self.parser.get() if name != "_meta_")
            msg = f"The configs have no {key!r} to override.{did_you_mean(key, known)} Top ids: {top}."
            raise ValueError(msg)
        current = self.parser[key]
        if not isinstance(value, str) or value.startswith(("$", "@", "%")):
            return value
        if value in ("True", "False", "true", "false"):
            return value.lower() == "true"
        if isinstance(current, str) and not current.startswith(("$", "@")):
            return value
        if key.endswith(("_dir", "_path", "_file", "weights", "_spec")):
            return value
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return yaml.safe_load(value)


def _ids(config: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            if key != "_meta_":
                yield prefix + key
                yield from _ids(value, f"{prefix}{key}::")
