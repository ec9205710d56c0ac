"""Every detector on the same cases, each trained and run in a process of its own: what it finds and what it costs."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_anomaly.checks import check_directory, check_option, check_writable, root_cause
from monai_anomaly.data.folder_lock import lock_folder
from monai_anomaly.data.phantoms import write_phantoms
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.detectors import Judge, write_detectors
from monai_anomaly.experiments.detectors import DETECTORS, MODALITIES, Detector
from monai_anomaly.experiments.runs import end_with_parent, quiet_runs, same_as_before, warm_processes
from monai_anomaly.handlers import CasesFailedError
from monai_anomaly.workflows import StrictConfigWorkflow, config_files, find_bundle

logger = logging.getLogger(__name__)

SET_HERE = ("dataset_dir", "ckpt_dir", "output_dir", "maps_dir", "ckpt_path", "seed", "section", "calibrated", "resume")
_PHANTOMS: dict[str, dict[str, Any]] = {
    "oct": {"num_healthy": 12, "num_test": 12, "shape": (128, 96, 12)},
    "fundus": {"num_healthy": 24, "num_test": 12},
    "brain_mri": {"num_healthy": 8, "num_test": 8, "shape": (96, 112, 64)},
    "liver_ct": {"num_healthy": 8, "num_test": 8},
}


def run_compare(
    out: str | Path,
    dataset_dir: str | Path | None = None,
    modalities: Sequence[str] = ("oct",),
    detectors: Sequence[str] | None = None,
    seed: int = 0,
    configs: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    small: bool = False,
) -> Path:
    """Train detectors on the healthy cases of one data set, judge them on the others, and write one table.

    What is done is not done again. Seconds and memory are of a process of its own for each training and each making of
    maps; seconds per image are from file to file.

    Args:
        out: folder of everything.
        dataset_dir: healthy cases in training, labeled ones in test; None makes phantoms of each modality.
        modalities: of `MODALITIES`; of a data set the one it shows.
        detectors: of `DETECTORS`; by default all that are for the modality.
        seed: of the phantoms and of all trainings.
        configs: laid over all others, by name; of the bundles that have them.
        overrides: by ``<detector>.id``, or by id for every run that has it.
        small: networks and epochs for minutes of a CPU.

    Returns:
        Path of ``report.md``.

    Raises:
        ValueError: unknown modality or detector, no detector for a modality, an override that the comparison sets
            or no detector has, or a folder of a comparison with other settings.
        RuntimeError: some detectors failed; the others are in the table.
    """
    root = check_writable("out", out)
    lock_folder(root)
    settings = {"overrides": dict(overrides or {}), "configs": list(configs), "seed": seed, "small": small}
    jobs = _jobs(dataset_dir, modalities, detectors, root, settings)
    _check_overrides(jobs)
    place = {"dataset_dir": None if dataset_dir is None else str(check_directory("dataset_dir", dataset_dir))}
    same_as_before(root / "experiment.json", {**settings, **place})
    if dataset_dir is None:
        for modality in modalities:
            _make_phantoms(modality, root / "phantoms" / modality, seed)
    rows, failures = [], []
    for job in tqdm(jobs, desc="detectors", unit="detector", disable=None):
        reason = job.train_and_map()
        if reason is not None:
            failures.append((f"{job.detector.title} on {job.modality}", reason))
            logger.warning("%s failed: %s", *failures[-1])
        failures += [(f"{job.detector.title} on {job.modality}, some cases", one) for one in job.failed_cases()]
    for modality in modalities:
        done = [job for job in jobs if job.modality == modality and job.is_done()]
        if done:
            judge = Judge(done[0].data, MODALITIES[modality], "oct" if modality == "oct" else None, seed)
            rows += judge.rows({job.detector.title: (job.maps, job.costs()) for job in done}, root, modality)
    report = write_detectors(root, rows, failures, json.dumps(settings))
    if failures:
        msg = f"{len(failures)} detectors failed, the others are in {report}: {failures[0][0]}: {failures[0][1]}"
        raise RuntimeError(msg)
    return report


@dataclass
class _Job:
    """A detector on a data set."""

    name: str
    modality: str
    data: Path
    folder: Path
    settings: Mapping[str, Any]

    @property
    def detector(self) -> Detector:
        return DETECTORS[self.name]

    @property
    def maps(self) -> Path:
        folder, guide = self.folder / "maps", self.detector.weights.removesuffix(".pt")
        return folder / f"{guide}_uncalibrated" if self.detector.maps_dir else folder

    def files(self, configs: Sequence[str]) -> list[str]:
        """Return the config files of a run, overlays last."""
        names = list(configs)
        if MODALITIES[self.modality] == 3 and self.detector.volume is not None:
            names.append(self.detector.volume)
        return [*config_files(find_bundle(self.detector.bundle), names), *self.extra_files()]

    def extra_files(self) -> list[str]:
        """Return the files of the configs that are laid over all others, as far as the bundle has them."""
        bundle = find_bundle(self.detector.bundle)
        names = [name for name in self.settings["configs"] if (bundle / "configs" / f"{name}.yaml").is_file()]
        return config_files(bundle, names)

    def overrides(self, stage: str) -> dict[str, Any]:
        """Return the overrides of a run: small settings, but for what configs laid over set, then the user's own."""
        chosen: dict[str, Any] = {}
        if self.settings["small"]:
            small = self.detector.small
            chosen = {**small.get("", {}), **small.get(stage, {}), **self.detector.small_of.get(self.modality, {})}
            laid_over = {key for file in self.extra_files() for key in ConfigParser.load_config_file(file)}
            chosen = {key: value for key, value in chosen.items() if key not in laid_over}
        for key, value in self.settings["overrides"].items():
            name, dot, rest = key.partition(".")
            if not dot:
                chosen[key] = value
            elif name == self.name:
                chosen[rest] = value
        return chosen

    def stages(self) -> list[tuple[str, list[str], dict[str, Any]]]:
        """Return name, config files and places of each run."""
        ckpt = self.folder / "weights"
        here = {"dataset_dir": str(self.data), "ckpt_dir": str(ckpt), "seed": self.settings["seed"]}
        runs = [(configs[0], self.files(configs), here) for configs in self.detector.train]
        there = {**here, "section": "test", "ckpt_path": str(ckpt / self.detector.weights)}
        there["calibrated"] = False  # else all pixels above a percentile of the healthy ones are the same
        there["maps_dir" if self.detector.maps_dir else "output_dir"] = str(self.folder / "maps")
        return [*runs, ("maps", self.files(self.detector.maps), there)]

    def train_and_map(self) -> str | None:
        """Run what is not done yet; return why it failed, None where it did not."""
        for stage, files, places in self.stages():
            cost = self.folder / f"{stage}.json"
            if cost.is_file():
                continue
            overrides = {**self.overrides(stage), **places}
            begun = self.folder / f"{stage}.begun"
            resumed = begun.is_file()
            write_atomically(begun, lambda path: path.write_text("", encoding="utf-8"))
            with ProcessPoolExecutor(1, mp_context=warm_processes(), initializer=end_with_parent) as pool:
                try:
                    measured = pool.submit(_measured, files, overrides).result()
                except Exception as error:  # noqa: BLE001 - a process that died, too
                    return root_cause(error)
            if "failure" in measured:
                return str(measured["failure"])
            if resumed:  # nobody knows how long the first part took
                measured["seconds"] = float("nan")
            text = json.dumps(measured, indent=4) + "\n"
            write_atomically(cost, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
        return None

    def is_done(self) -> bool:
        """Whether there are maps."""
        return (self.folder / "maps.json").is_file()

    def failed_cases(self) -> list[str]:
        """Return what the runs that came to their end said of cases that failed."""
        files = [self.folder / f"{stage}.json" for stage, *_ in self.stages()]
        told = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        return [one["failed_cases"] for one in told if one.get("failed_cases")]

    def costs(self) -> dict[str, float]:
        """Return seconds, parameters and peak memory."""
        costs = {}
        for stage, *_ in self.stages():
            file = self.folder / f"{stage}.json"
            costs[stage] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        maps, trainings = costs.pop("maps"), list(costs.values())
        return {
            "parameters": maps.get("parameters", float("nan")),
            "train_seconds": sum(cost["seconds"] for cost in trainings),
            "train_gb": max(cost["peak_bytes"] for cost in trainings) / 1e9,
            "map_seconds": maps.get("seconds", float("nan")),
            "map_gb": maps.get("peak_bytes", float("nan")) / 1e9,
        }


def _jobs(
    dataset_dir: Any,
    modalities: Sequence[str],
    detectors: Sequence[str] | None,
    root: Path,
    settings: Mapping[str, Any],
) -> list[_Job]:
    if dataset_dir is not None and len(modalities) != 1:
        msg = f"A data set shows one modality, got {', '.join(modalities)}; pass the one of {str(dataset_dir)!r}."
        raise ValueError(msg)
    for name in detectors or ():
        check_option("detector", name, list(DETECTORS))
    jobs = []
    for modality in modalities:
        check_option("modality", modality, list(MODALITIES))
        chosen = [name for name in detectors or DETECTORS if modality in DETECTORS[name].modalities]
        if not chosen:
            fit = [name for name in DETECTORS if modality in DETECTORS[name].modalities]
            msg = f"None of {', '.join(detectors or ())} is for {modality}; choose of {', '.join(fit)}."
            raise ValueError(msg)
        data = root / "phantoms" / modality if dataset_dir is None else Path(dataset_dir)
        jobs += [_Job(name, modality, data, root / "runs" / modality / name, settings) for name in chosen]
    return jobs


def _check_overrides(jobs: Sequence[_Job]) -> None:
    """Try every override before the first run: each must be known to one of the runs it is for."""
    for key in jobs[0].settings["overrides"]:
        name, dot, rest = key.partition(".")
        if (rest if dot else key) in SET_HERE:
            msg = f"The comparison sets {key} itself; see its --dataset_dir, --out and --seed."
            raise ValueError(msg)
        if dot:
            check_option(f"detector of --{key}", name, sorted({job.name for job in jobs}))
        _check_known(rest or key, [job for job in jobs if not dot or job.name == name])


def _check_known(key: str, jobs: Sequence[_Job]) -> None:
    error = None
    for job in jobs:
        for _, files, _ in job.stages():
            try:
                with quiet_runs():
                    StrictConfigWorkflow(files, override={key: "0"}, workflow_type=None, logging_file=False)
            except ValueError as unknown:
                error = unknown
            else:
                return
    raise error or ValueError(key)


def _make_phantoms(modality: str, folder: Path, seed: int) -> None:
    if not (folder / "done").is_file():
        write_phantoms(modality, folder, seed=seed, **_PHANTOMS[modality])
        write_atomically(folder / "done", lambda path: path.write_text("", encoding="utf-8"))


def _measured(files: list[str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Run configs in this process; return seconds of the run, peak memory of the process and parameters."""
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader.*")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    try:
        with quiet_runs():
            known = StrictConfigWorkflow(files, workflow_type=None, logging_file=False).parser
            own = {key: value for key, value in overrides.items() if key in known}
            workflow = StrictConfigWorkflow(files, override=own, workflow_type=None, logging_file=False)
            workflow.initialize()
            start, failed_cases = time.perf_counter(), None
            try:
                workflow.run()
            except Exception as error:
                if not _some_cases_failed(error):
                    raise
                failed_cases = root_cause(error)  # the others are done
            seconds = time.perf_counter() - start
            workflow.finalize()
            network = workflow.parser.get_parsed_content("network_def")
    except Exception as error:  # noqa: BLE001 - goes to the table
        return {"failure": root_cause(error)}
    count = sum(parameter.numel() for parameter in network.parameters())
    costs = {"seconds": seconds, "peak_bytes": _peak_bytes(), "parameters": count}
    return {**costs, "failed_cases": failed_cases}


def _some_cases_failed(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, CasesFailedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _peak_bytes() -> float:
    """Return this process's peak memory, NaN where nobody tells; ``ru_maxrss`` would have the parent's in it."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("VmHWM")), float("nan"))
