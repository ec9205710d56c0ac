"""Kahrs et al. 2025, Fig. 2: strategies of guidance times guides, cross-validated, against the baseline."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_anomaly.checks import check_directory, check_option, check_range, check_writable
from monai_anomaly.data.datalist import load_datalist
from monai_anomaly.data.folder_lock import lock_folder
from monai_anomaly.data.maps import with_maps
from monai_anomaly.evaluation.comparison import write_comparison
from monai_anomaly.experiments.runs import Runs, same_as_before

logger = logging.getLogger(__name__)

STRATEGIES = {  # overlay, whether it wants maps
    "baseline": (None, False),
    "IDAG": ("guidance_idag", True),
    "DAG": ("guidance_dag", True),
    "AMNet": ("guidance_amnet", False),
    "AnoG-AMNet": ("guidance_anog_amnet", True),
    "AnoAMNet": ("guidance_anoamnet", True),
}
TRAINED = ("fanogan", "nsa", "fluidregnet")
"""Guides this bundle trains; the maps of any other detector have to lie in the maps' folder."""


SHARED = ("data_spec", "axes", "image_size", "percentiles", "row_fraction", "fluid_values", "num_workers", "cache_dir")
"""Overrides of the segmenters that go for the guides, too."""

SET_HERE = (
    "seed",
    "fold",
    "num_folds",
    "folds_file",
    "ckpt_dir",
    "output_dir",
    "maps_dir",
    "guide",
    "method",
    "calibrated",
    "resume",
)


@dataclass(frozen=True)
class Run:
    """A training with its evaluation."""

    strategy: str
    guide: str | None
    seed: int
    fold: int

    @property
    def method(self) -> str:
        """Return the strategy with its guide."""
        return self.strategy if self.guide is None else f"{self.strategy} {self.guide}"

    def folder(self, root: Path) -> Path:
        """Return where its results are."""
        return root / "runs" / self.method.replace(" ", "_") / f"seed{self.seed}" / f"fold{self.fold}"


@dataclass(frozen=True)
class Study:
    """Where the data of an experiment lie, and how they are parted."""

    dataset_dir: Path
    root: Path
    maps: Path
    folds: int

    def maps_of(self, fold: int | None) -> Path:
        """Return the folder of the maps that a fold's segmenters use; None where all use the same."""
        return self.maps if fold is None else self.maps / f"fold{fold}"

    def folding(self, fold: int | None) -> dict[str, Any]:
        """Return the overrides that choose a fold's training part."""
        return {"fold": fold, "num_folds": self.folds, "folds_file": str(self.root / "folds.json")}


def run_amnet(
    dataset_dir: str | Path,
    out: str | Path,
    folds: int = 5,
    guides: Sequence[str] = TRAINED,
    strategies: Sequence[str] = tuple(STRATEGIES),
    seeds: int = 1,
    maps_dir: str | Path | None = None,
    configs: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    guides_by_fold: bool = False,
) -> Path:
    """Train the guides, make their maps, train and evaluate every strategy with every guide, and compare.

    What is done is not done again: a run that was interrupted goes on from its last epoch. The number of runs is
    (2 + 4 x guides) x folds x seeds with all strategies.

    Args:
        dataset_dir: labeled volumes, the section "training"; their B-scans without fluid train the guides.
        out: folder of everything.
        folds: of the cross-validation, by patient.
        guides: of `TRAINED`, or folders of maps in ``maps_dir``.
        strategies: of `STRATEGIES`; the baseline is always among them.
        seeds: trainings of each, from 0.
        maps_dir: of the maps; None for ``out/maps``.
        configs: of the bundle, laid over all others, by name.
        overrides: by id for the segmenters' runs, by ``<guide>.id`` for a guide's training; what the volumes look like
            (`SHARED`) goes for both.
        guides_by_fold: train each guide on each fold's training part, as the authors did FluidRegNet; otherwise once on
            all, and the maps of a fold held out are of a guide that has seen its B-scans without fluid.

    Returns:
        The report's path.

    Raises:
        ValueError: unknown strategies or overrides, overrides of what the experiment itself sets, numbers out of range,
            or a folder of an experiment with other settings.
        RuntimeError: runs failed; what there is was compared.
    """
    for strategy in strategies:
        check_option("strategy", strategy, list(STRATEGIES))
    check_range("folds", folds, 2)
    check_range("seeds", seeds, 1)
    check_directory("dataset_dir", dataset_dir)
    root = check_writable("out", out)
    lock_folder(root)
    own, of_guides = _split(overrides or {}, guides)
    segment = Runs("amnet", configs, own)
    segment.check(["train", "evaluate"])
    records = load_datalist(dataset_dir, "training", str(own.get("data_spec", "auto")), 3)
    check_range(f"number of patients for {folds} folds", len({str(record["patient"]) for record in records}), folds)
    wanted = ["baseline", *(name for name in STRATEGIES if name in strategies and name != "baseline")]
    study = Study(Path(dataset_dir), root, Path(maps_dir) if maps_dir is not None else root / "maps", folds)
    settings = {"dataset_dir": str(dataset_dir), "folds": folds, "configs": list(configs), "overrides": own}
    settings |= {"maps_dir": str(study.maps), "guides_by_fold": guides_by_fold}
    settings |= {f"overrides of {guide}": values for guide, values in of_guides.items()}
    same_as_before(root / "experiment.json", settings)
    failures: list[tuple[str, str]] = []
    if any(STRATEGIES[name][1] for name in wanted):
        failures += _make_all_maps(study, records, guides, of_guides, configs, guides_by_fold)
    grid = list(_grid(wanted, guides, seeds, folds))
    for run in tqdm(grid, desc="runs", unit="run", disable=None):
        _train_and_evaluate(run, segment, study, guides_by_fold)
    failures += segment.failures
    done: dict[str, list[tuple[int, int, Path]]] = {}
    for run in grid:
        if _done(run.folder(root) / "eval", "report.md"):
            done.setdefault(run.method, []).append((run.seed, run.fold, run.folder(root) / "eval"))
    by_fold = (
        "fold by fold" if guides_by_fold else "once, on B-scans without fluid of all folds: the maps have seen them"
    )
    notes = [*(f"Failed: {name}: {reason}" for name, reason in failures), f"The guides were trained {by_fold}."]
    report = write_comparison(root, done, "baseline", notes)
    if failures:
        msg = f"{len(failures)} runs failed, the others are compared in {report}: {failures[0][0]}: {failures[0][1]}"
        raise RuntimeError(msg)
    return report


def _grid(strategies: Sequence[str], guides: Sequence[str], seeds: int, folds: int) -> list[Run]:
    runs = []
    for seed, fold, strategy in product(range(seeds), range(folds), strategies):
        runs += [Run(strategy, guide, seed, fold) for guide in (guides if STRATEGIES[strategy][1] else (None,))]
    return runs


def _split(overrides: Mapping[str, Any], guides: Sequence[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the overrides of the segmenters, and those of each guide."""
    own: dict[str, Any] = {}
    of_guides: dict[str, dict[str, Any]] = {guide: {} for guide in guides}
    for key, value in overrides.items():
        guide, dot, name = key.partition(".")
        if (name if dot else key) in SET_HERE:
            msg = f"The experiment sets {key} itself; see its --folds, --seeds, --guides, --maps_dir and --out."
            raise ValueError(msg)
        if dot and guide in of_guides:
            of_guides[guide][name] = value
        else:
            own[key] = value
    shared = {key: value for key, value in own.items() if key in SHARED}
    return own, {guide: {**shared, **values} for guide, values in of_guides.items()}


def _make_all_maps(
    study: Study,
    records: Sequence[Mapping[str, Any]],
    guides: Sequence[str],
    of_guides: Mapping[str, Mapping[str, Any]],
    configs: Sequence[str],
    by_fold: bool,
) -> list[tuple[str, str]]:
    """Train guides and write their maps, as far as they are not there; return what failed."""
    jobs = []
    for guide, fold in product(guides, range(study.folds) if by_fold else (None,)):
        if _has_maps(records, study.maps_of(fold), guide):
            continue
        if guide not in TRAINED:
            with_maps(records, study.maps_of(fold), guide)  # says what is missing
        runs = Runs("amnet", configs, of_guides[guide])
        runs.check([f"train_{guide}", "anomaly_maps"])
        jobs.append((guide, fold, runs))
    failures = []
    for guide, fold, runs in jobs:
        folder = study.root / "guides" / guide / ("all" if fold is None else f"fold{fold}")
        places = {"dataset_dir": str(study.dataset_dir), "ckpt_dir": str(folder), **study.folding(fold)}
        logger.info("guide %s", guide)
        if _done(folder, f"{guide}.pt") or runs(f"train {guide}", [f"train_{guide}"], places):
            here = {**places, "maps_dir": str(study.maps_of(fold))}
            runs(f"maps of {guide}", [f"train_{guide}", "anomaly_maps"], here)
        failures += runs.failures
    return failures


def _has_maps(records: Sequence[Mapping[str, Any]], maps: Path, guide: str) -> bool:
    try:
        with_maps(records, maps, guide)
    except FileNotFoundError:
        return False
    return True


def _done(folder: Path, file: str) -> bool:
    """Whether a step left its result, and no list of cases that failed."""
    return (folder / file).is_file() and not (folder / "failures.csv").is_file()


def _train_and_evaluate(run: Run, runs: Runs, study: Study, by_fold: bool) -> None:
    folder = run.folder(study.root)
    if _done(folder / "eval", "report.md"):
        return
    overlay, wants_maps = STRATEGIES[run.strategy]
    overlays = [] if overlay is None else [overlay]
    maps = {"maps_dir": str(study.maps_of(run.fold if by_fold else None)), "guide": run.guide}
    here = {
        "dataset_dir": str(study.dataset_dir),
        "ckpt_dir": str(folder),
        "seed": run.seed,
        **study.folding(run.fold),
        **(maps if wants_maps else {}),
    }
    name = f"{run.method}, seed {run.seed}, fold {run.fold}"
    if _done(folder, "model.pt") or runs(name, ["train", *overlays], here):
        judge = {**here, "output_dir": str(folder / "eval"), "method": run.method, "num_figures": 2}
        if runs(f"evaluation of {name}", ["train", *overlays, "evaluate"], judge):
            (folder / "checkpoint.pt").unlink(missing_ok=True)  # four times the weights, of no further use
