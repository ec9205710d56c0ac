"""Yang et al. 2024, Tables 4 to 7: modules, layers, heads and kinds of maps, by the overlap of their pseudo labels."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_anomaly.checks import check_directory, check_option, check_range, check_writable
from monai_anomaly.data.folder_lock import lock_folder
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.report import markdown_table, write_csv
from monai_anomaly.experiments.runs import Runs, same_as_before

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """A row of a table: what its classifier and its maps differ by."""

    overlay: str | None = None
    generator: bool = True
    refined: bool = True
    network: Mapping[str, Any] = field(default_factory=dict)
    maps: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classifier(self) -> str:
        """Return the name of the classifier's training, which rows may share."""
        return "_".join([self.overlay or "full", *(f"{key}{value}" for key, value in self.network.items())])


_LAYERS = [["layer1"], ["layer2"], ["layer3"], ["layer4"], ["E"], ["layer1", "E"], ["layer2", "E"], ["layer3", "E"]]
_LAYERS += [["layer4", "E"], ["layer3", "layer4", "E"], ["layer2", "layer3", "layer4", "E"]]
_LAYERS += [["layer1", "layer2", "layer3", "layer4", "E"]]
TABLES: dict[str, dict[str, Variant]] = {
    "modules": {
        "I base": Variant("ablation_1_base", generator=False, refined=False),
        "II + ADR": Variant("ablation_2_adr", refined=False),
        "III + ASAM": Variant("ablation_3_asam", refined=False),
        "IV + GMP": Variant(refined=False),
        "V + refinement": Variant(),
        "III, darker": Variant("darker", refined=False),
        "III, darker + refinement": Variant("darker"),
    },
    "layers": {" + ".join(names): Variant(maps={"layers": names}) for names in _LAYERS},
    "heads": {f"{count} heads": Variant(network={"num_heads": count}) for count in (1, 2, 4, 8, 16)},
    "cams": {
        "GradCAM": Variant(maps={"smooth": False}),
        "GradCAM++": Variant(maps={"smooth": False, "cam_method": "gradcam++"}),
        "GradCAM & eigen": Variant(maps={"smooth": False, "cam_method": "eigen"}),
        "GradCAM & aug": Variant(),
    },
}
"""Tables 4 to 7 of the paper, in this order, and their rows; the first has two of ours besides."""

SET_HERE = (
    *(
        "seed",
        "ckpt_dir",
        "output_dir",
        "resume",
        "run",
        "num_figures",
        "ganomaly_ckpt",
        "classifier_ckpt",
        "ckpt_path",
    ),
    *("threshold", "cam_layers", "cam_method", "smooth", "num_heads", "counterpart", "attention", "pooling", "side"),
)

_ENCODER = "$'encoder.%d' % (len(@network_def.encoder) - 1)"


def run_agm(
    dataset_dir: str | Path,
    out: str | Path,
    healthy_dir: str | Path,
    tables: Sequence[str] = ("modules",),
    rows: Sequence[str] | None = None,
    seeds: int = 1,
    configs: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Train what the rows of the tables need, judge their maps on the labeled section, and write the tables.

    What is done is not done again: a run that was interrupted goes on from its last epoch. Rows share their trainings.

    Args:
        dataset_dir: images with image labels, and labeled ones in the validation section.
        out: folder of everything.
        healthy_dir: of the generator.
        tables: of `TABLES`.
        rows: of these tables, to run now; all by default. Those that were run before are in the tables, too.
        seeds: trainings of each.
        configs: laid over all others.
        overrides: by id; "ganomaly.max_epochs", "refine.batch_size" and the like for one of the trainings.

    Returns:
        Path of ``report.md``.

    Raises:
        ValueError: an unknown table or row, an override the experiment sets itself, or other settings than the first
            start in this folder had.
        RuntimeError: some runs failed; the others are in the tables.
    """
    root = check_writable("out", out)
    lock_folder(root)
    check_directory("dataset_dir", dataset_dir)
    check_directory("healthy_dir", healthy_dir)
    check_range("seeds", seeds, 1)
    for table in tables:
        check_option("table", table, list(TABLES))
    for row in rows or ():
        check_option("row", row, [name for table in tables for name in TABLES[table]])
    for key in overrides or {}:
        if key.rpartition(".")[2] in SET_HERE:
            msg = f"The experiment sets {key} itself; see its --tables, --rows, --seeds and --out."
            raise ValueError(msg)
    study = _Study(Path(dataset_dir), Path(healthy_dir), root, configs, dict(overrides or {}))
    study.runs("").check(["train_ganomaly", "train_classifier", "refine", "pseudo_labels"])
    settings = {"dataset_dir": str(dataset_dir), "healthy_dir": str(healthy_dir), "configs": list(configs)}
    same_as_before(root / "experiment.json", {**settings, "overrides": dict(overrides or {})})
    todo = [(table, name) for table in tables for name in TABLES[table] if rows is None or name in rows]
    for seed, (table, name) in tqdm(list(product(range(seeds), todo)), desc="rows", unit="row", disable=None):
        study.judge(TABLES[table][name], seed)
    report = _write(study, tables, seeds)
    if study.failures:
        msg = f"{len(study.failures)} runs failed: {study.failures[0][0]}: {study.failures[0][1]}; see {report}"
        raise RuntimeError(msg)
    return report


@dataclass
class _Study:
    dataset_dir: Path
    healthy_dir: Path
    root: Path
    configs: Sequence[str]
    overrides: dict[str, Any]
    failures: list[tuple[str, str]] = field(default_factory=list)

    def runs(self, stage: str) -> Runs:
        """Return what runs a stage, with the overrides that are its own."""
        own = {key: value for key, value in self.overrides.items() if "." not in key}
        for key, value in self.overrides.items():
            name, dot, rest = key.partition(".")
            if dot and (name == stage or not stage):
                own[rest] = value
        return Runs("agm", self.configs, own)

    def folder(self, variant: Variant, seed: int) -> Path:
        """Return where a classifier is."""
        return self.root / "runs" / variant.classifier / f"seed{seed}"

    def result(self, variant: Variant, seed: int) -> Path:
        """Return where the maps' figures are."""
        maps = "_".join(f"{k}-{'-'.join(v) if isinstance(v, list) else v}" for k, v in variant.maps.items())
        return self.folder(variant, seed) / ("refined" if variant.refined else "classifier") / (maps or "maps")

    def judge(self, variant: Variant, seed: int) -> None:
        """Train what is needed and make the figures, as far as they are not there."""
        result, folder = self.result(variant, seed), self.folder(variant, seed)
        if (result / "overlap.csv").is_file():
            return
        generator = self.root / "runs" / "ganomaly" / f"seed{seed}"
        healthy = {"dataset_dir": str(self.healthy_dir), "ckpt_dir": str(generator), "seed": seed}
        here = {"dataset_dir": str(self.dataset_dir), "ckpt_dir": str(folder), "seed": seed, **variant.network}
        overlays = [variant.overlay] if variant.overlay else []
        stages = [
            *([("ganomaly", ["train_ganomaly"], healthy)] if variant.generator else []),
            ("classifier", ["train_classifier", *overlays], {**here, "ganomaly_ckpt": str(generator / "ganomaly.pt")}),
            *([("refined", ["refine", *overlays], here)] if variant.refined else []),
        ]
        for name, configs, places in stages:
            target = Path(places["ckpt_dir"])
            if (target / f"{name}.pt").is_file():
                continue
            stage = {"ganomaly": "ganomaly", "classifier": "classifier", "refined": "refine"}[name]
            if not self._run(f"{name} of {variant.classifier}, seed {seed}", stage, configs, places):
                return
        maps = dict(variant.maps)
        layers = maps.pop("layers", None)
        if layers is not None:
            maps["cam_layers"] = [_ENCODER if name == "E" else f"backbone.{name}" for name in layers]
        weights = folder / ("refined.pt" if variant.refined else "classifier.pt")
        places = {**here, **maps, "ckpt_path": str(weights), "output_dir": str(result), "num_figures": 4}
        places["run"] = ["$@validate::evaluator.run()", "$@sweep.raise_failures()"]
        self._run(f"maps of {variant.classifier}, seed {seed}", "maps", ["pseudo_labels", *overlays], places)

    def _run(self, name: str, stage: str, configs: Sequence[str], places: Mapping[str, Any]) -> bool:
        logger.info("%s", name)
        runs = self.runs(stage)
        done = runs(name, configs, places)
        self.failures += runs.failures
        return done


def _write(study: _Study, tables: Sequence[str], seeds: int) -> Path:
    """Write a table each as CSV, all in ``report.md``, and return the latter's path."""
    lines = [
        "# AGM",
        "",
        f"{seeds} seeds: means, and of the mean IoU the standard deviation. An image's labels tell which",
    ]
    lines += [
        "lesions are there. Each row has its own best threshold in steps of 0.01; the paper has one per data set.",
        "",
    ]
    for table in tables:
        rows = [_row(name, [study.result(v, seed) for seed in range(seeds)]) for name, v in TABLES[table].items()]
        columns = dict.fromkeys(column for row in rows for column in row)
        rows = [{column: row.get(column, float("nan")) for column in columns} for row in rows]  # of those that failed
        write_csv(study.root / f"{table}.csv", rows)
        lines += [f"## {table.capitalize()}", "", *markdown_table(rows), ""]
    lines += [f"- Failed: {name}: {reason}" for name, reason in study.failures]
    settings = {key: str(value) for key, value in study.overrides.items()}
    lines += ["", f"Overrides: {json.dumps(settings)}; configs laid over: {', '.join(study.configs) or 'none'}.", ""]
    path = study.root / "report.md"
    return write_atomically(path, lambda part: part.write_text("\n".join(lines), encoding="utf-8"))


def _row(name: str, results: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    done = [result / "overlap.csv" for result in results if (result / "overlap.csv").is_file()]
    for file in done:
        with file.open(newline="", encoding="utf-8") as handle:
            rows = {line["class"]: line for line in csv.DictReader(handle) if line["maps"] == "gated"}
        for title, column in (("mean_iou", "iou"), ("mean_dice", "dice"), ("over", "over"), ("under", "under")):
            found.setdefault(title, []).append(_number(rows["all" if column in ("iou", "dice") else "lesions"][column]))
        for label, line in rows.items():
            if label not in ("background", "lesions", "all"):
                found.setdefault(f"{label}_iou", []).append(_number(line["iou"]))
        found.setdefault("seconds_per_image", []).append(_number(rows["all"]["seconds_per_image"]))
    row: dict[str, Any] = {"row": name, "seeds": len(done)}
    for title, values in found.items():
        row[title] = float(np.mean(values))
        if title == "mean_iou":
            row["sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return row


def _number(text: str) -> float:
    return float(text) if text else float("nan")
