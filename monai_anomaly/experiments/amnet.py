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
from monai_anomaly.data.maps import with_maps
from monai_anomaly.evaluation.comparison import write_comparison
from monai_anomaly.experiments.runs import Runs

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
        overrides: by id for the segmenters' runs, by ``<guide>.id`` for a guide's training.

    Returns:
        The report's path.

    Raises:
        ValueError: unknown strategies or overrides, or numbers out of range.
        RuntimeError: runs failed; what there is was compared.
    """
    for strategy in strategies:
        check_option("strategy", strategy, list(STRATEGIES))
    check_range("folds", folds, 2)
    check_range("seeds", seeds, 1)
    check_directory("dataset_dir", dataset_dir)
    root = check_writable("out", out)
    own, of_guides = _split(overrides or {}, guides)
    maps = Path(maps_dir) if maps_dir is not None else root / "maps"
    wanted = ["baseline", *(name for name in STRATEGIES if name in strategies and name != "baseline")]
    segment = Runs("amnet", configs, own)
    segment.check(["train", "evaluate"])
    spec = str(own.get("data_spec", "auto"))
    failures: list[tuple[str, str]] = []
    if any(STRATEGIES[name][1] for name in wanted):
        for guide in guides:
            failures += _make_maps(guide, dataset_dir, root, maps, spec, configs, of_guides[guide])
    grid = list(_grid(wanted, guides, seeds, folds))
    for run in tqdm(grid, desc="runs", unit="run", disable=None):
        _train_and_evaluate(run, segment, root, {"dataset_dir": str(dataset_dir), "maps_dir": str(maps)}, folds)
    failures += segment.failures
    done: dict[str, list[tuple[int, int, Path]]] = {}
    for run in grid:
        if _done(run.folder(root)):
            done.setdefault(run.method, []).append((run.seed, run.fold, run.folder(root) / "eval"))
    report = write_comparison(root, done, "baseline", [f"{name}: {reason}" for name, reason in failures])
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
        if dot and guide in of_guides:
            of_guides[guide][name] = value
        else:
            own[key] = value
    return own, of_guides


def _make_maps(
    guide: str,
    dataset_dir: str | Path,
    root: Path,
    maps: Path,
    spec: str,
    configs: Sequence[str],
    overrides: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """Train a guide and write its maps, as far as they are not there; return what failed."""
    records = load_datalist(dataset_dir, "training", spec, 3)
    if _has_maps(records, maps, guide):
        return []
    if guide not in TRAINED:
        with_maps(records, maps, guide)  # says what is missing
    runs = Runs("amnet", configs, overrides)
    runs.check([f"train_{guide}", "anomaly_maps"])
    folder = root / "guides"
    places = {"dataset_dir": str(dataset_dir), "ckpt_dir": str(folder), "data_spec": spec}
    started = any(folder.glob(f"{guide}*_checkpoint.pt"))
    logger.info("guide %s", guide)
    trained = (folder / f"{guide}.pt").is_file()
    if trained or runs(f"train {guide}", [f"train_{guide}"], {**places, "resume": started}):
        runs(f"maps of {guide}", [f"train_{guide}", "anomaly_maps"], {**places, "maps_dir": str(maps)})
    return runs.failures


def _has_maps(records: Sequence[Mapping[str, Any]], maps: Path, guide: str) -> bool:
    try:
        with_maps(records, maps, guide)
    except FileNotFoundError:
        return False
    return True


def _done(folder: Path) -> bool:
    return (folder / "eval" / "report.md").is_file()


def _train_and_evaluate(run: Run, runs: Runs, root: Path, places: Mapping[str, str], folds: int) -> None:
    folder = run.folder(root)
    if _done(folder):
        return
    overlay, wants_maps = STRATEGIES[run.strategy]
    overlays = [] if overlay is None else [overlay]
    here = {
        "dataset_dir": places["dataset_dir"],
        "ckpt_dir": str(folder),
        "fold": run.fold,
        "num_folds": folds,
        "folds_file": str(root / "folds.json"),
        "seed": run.seed,
        **({"maps_dir": places["maps_dir"], "guide": run.guide} if wants_maps else {}),
    }
    name = f"{run.method}, seed {run.seed}, fold {run.fold}"
    started = (folder / "checkpoint.pt").is_file()
    if (folder / "model.pt").is_file() or runs(name, ["train", *overlays], {**here, "resume": started}):
        judge = {**here, "output_dir": str(folder / "eval"), "method": run.method, "num_figures": 2}
        runs(f"evaluation of {name}", ["train", *overlays, "evaluate"], judge)
