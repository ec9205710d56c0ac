"""``python -m monai_anomaly``: run bundles strictly, with short errors, and look at data before that."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_anomaly.checks import root_cause


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 1 after one line that says what was wrong."""
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command not in ("run", "experiment", "compare", "export"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for noise in (".*GHSA-.*", ".*arbitrary code.*", "NvImgCodecPydicomReader.*"):
        warnings.filterwarnings("ignore", message=noise)
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    try:
        return int(known.function(known, rest) or 0)
    except KeyboardInterrupt:
        return _fail("interrupted", known.debug)
    except Exception as error:
        if known.debug:
            raise
        return _fail(root_cause(error), known.debug)


def _fail(reason: str, debug: bool) -> int:
    hint = "" if debug else " (--debug shows where)"
    sys.stderr.write(f"error: {reason}{hint}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monai_anomaly", description=__doc__, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the whole trace of an error")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run a bundle's config, strict about overrides", allow_abbrev=False)
    run.add_argument("bundle", help="stem (resad), name or folder")
    run.add_argument(
        "configs", nargs="+", help="configs by name, later ones laid over earlier: train inference evaluate"
    )
    run.add_argument("--config", action="append", default=[], help="one more config to lay over, e.g. data_volume")
    run.set_defaults(function=_run)

    _add_pages(commands)
    _add_experiments(commands)
    _add_bundle_commands(commands)
    _add_data_commands(commands)
    return parser


def _add_pages(commands: Any) -> None:
    report = commands.add_parser(
        "report", help="a page of a run: metrics, cases, and a viewer of each; no server needed"
    )
    report.add_argument(
        "folders", nargs="+", metavar="OUT", help="a run's output_dir; several on the same cases, side by side"
    )
    report.add_argument("--out", help="folder of the page; report in the first OUT by default")
    report.add_argument("--anonymize", action="store_true", help="number the cases instead of naming them")
    report.add_argument("--max_size", type=int, default=256, help="pixels along a side at most")
    report.set_defaults(function=_report)

    view = commands.add_parser("view", help="look at a volume or image with its map and label in the browser")
    view.add_argument("image")
    view.add_argument("map", nargs="?", help="on the image's grid")
    view.add_argument("label", nargs="?", help="on the image's grid")
    view.add_argument(
        "--slice_axis", type=int, choices=(0, 1, 2), default=2, help="voxel axis slices follow one another along"
    )
    view.add_argument("--out", help="folder of the page; a new one of the system's for temporary files by default")
    view.add_argument("--max_size", type=int, default=512, help="pixels along a side at most")
    view.add_argument("--no_browser", action="store_true", help="print where the page is, and open nothing")
    view.set_defaults(function=_view)


def _add_experiments(commands: Any) -> None:
    experiment = commands.add_parser("experiment", help="a paper's experiment: tables and a figure")
    names = experiment.add_subparsers(dest="name", required=True)
    amnet = names.add_parser("amnet", help="strategies of guidance times guides, cross-validated", allow_abbrev=False)
    amnet.add_argument("--folds", type=int, default=5)
    amnet.add_argument("--guides", default="fanogan,nsa,fluidregnet", type=_listed, help="detectors, commas between")
    amnet.add_argument("--strategies", type=_listed, help="commas between; all by default")
    amnet.add_argument("--maps_dir", help="of maps that are there already")
    amnet.add_argument("--guides_by_fold", action="store_true", help="train each guide on each fold's other patients")
    agm = names.add_parser("agm", help="Tables 4 to 7: modules, layers, heads, cams", allow_abbrev=False)
    agm.add_argument("--healthy_dir", required=True, help="healthy images, for the generator")
    agm.add_argument("--tables", default="modules", type=_listed, help="modules, layers, heads, cams: commas between")
    agm.add_argument("--rows", type=_listed, help="of the tables, commas between; all by default")
    for one in (amnet, agm):
        one.add_argument("--dataset_dir", required=True, help="the labeled data")
        one.add_argument("--out", required=True, help="folder of everything; a second start goes on there")
        one.add_argument("--seeds", type=int, default=1, help="trainings of each")
        one.add_argument("--config", action="append", default=[], help="a config to lay over all others, e.g. smoke")
    experiment.set_defaults(function=_experiment)

    compare = commands.add_parser("compare", help="detectors on the same cases: one table", allow_abbrev=False)
    compare.add_argument("--out", required=True, help="folder of everything; a second start goes on there")
    compare.add_argument("--dataset_dir", help="healthy cases in training, labeled ones in test; phantoms by default")
    compare.add_argument("--modalities", default="oct", type=_listed, help="oct, fundus, brain_mri: commas between")
    compare.add_argument("--detectors", type=_listed, help="commas between; by default all for the modality")
    compare.add_argument("--small", action="store_true", help="networks and epochs for minutes of a CPU")
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--config", action="append", default=[], help="a config to lay over all others, e.g. smoke")
    compare.set_defaults(function=_compare)

    thresholds = commands.add_parser("thresholds", help="of the score: from healthy cases, and what they cost")
    thresholds.add_argument("healthy", help="output_dir of a run on healthy cases that nothing was fitted on")
    thresholds.add_argument("judged", metavar="OUT", help="output_dir of a run to judge, with the same weights")
    thresholds.add_argument("--rates", type=float, nargs="+", default=(0.05, 0.1, 0.2), help="false-positive rates")
    thresholds.set_defaults(function=_thresholds)


def _listed(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _add_bundle_commands(commands: Any) -> None:
    bundles = commands.add_parser("bundles", help="list the bundles and their configs")
    bundles.set_defaults(function=_bundles)

    export = commands.add_parser("export", help="write a bundle's network as an ONNX file", allow_abbrev=False)
    export.add_argument("bundle", help="stem, name or folder")
    export.add_argument("configs", nargs="*", default=["inference"], help="configs by name that have the network")
    export.add_argument("--config", action="append", default=[], help="one more config to lay over, e.g. data_volume")
    export.add_argument("--out", required=True, help="the .onnx file to write")
    export.set_defaults(function=_export)

    check = commands.add_parser("check", help="run the model zoo's checks on a bundle")
    check.add_argument("bundle", help="stem, name or folder")
    check.add_argument("--schema", type=Path, help="file of the metadata schema, to check against offline")
    check.set_defaults(function=_check)


def _add_data_commands(commands: Any) -> None:
    datasets = commands.add_parser("datasets", help="list the data specs, or tell all about one")
    datasets.add_argument("spec", nargs="?", help="a data spec's name or YAML file")
    datasets.set_defaults(function=_datasets)

    datalist = commands.add_parser("datalist", help="write a data set's cases as a datalist")
    datalist.add_argument("spec", help="a data spec's name or YAML file, or auto")
    datalist.add_argument("--root", required=True, help="the data set's folder")
    datalist.add_argument("--out", required=True, help="the JSON file to write")
    datalist.add_argument("--dimensions", type=int, choices=(2, 3), help="of the files, where the spec leaves it open")
    datalist.add_argument("--folds", type=int, help="number the training cases 0 to FOLDS - 1, patients whole")
    datalist.add_argument("--seed", type=int, default=0, help="of the folds")
    datalist.add_argument("--allow_overlap", action="store_true", help="keep patients who are in two sections")
    datalist.set_defaults(function=_datalist)

    inspect = commands.add_parser("inspect", help="look at data before training; exit status 1 says it may not start")
    inspect.add_argument("source", help="a folder, a datalist's JSON, or one image or volume")
    inspect.add_argument("--out", default="inspection", help="folder for the tables, the JSON and the contact sheet")
    inspect.add_argument("--spec", default="auto", help="a data spec's name or YAML file")
    inspect.add_argument("--root", help="of a datalist: the folder its paths are relative to")
    inspect.add_argument("--dimensions", type=int, choices=(2, 3), help="images or volumes, in a plain folder")
    inspect.add_argument("--headers_only", action="store_true", help="read no pixels where headers tell the shape")
    inspect.add_argument("--workers", type=int, help="processes; as many as cores, eight at most, by default")
    inspect.set_defaults(function=_inspect)

    phantoms = commands.add_parser("phantoms", help="write phantom cases in the plain folder layout")
    phantoms.add_argument("modality", choices=("oct", "fundus", "brain_mri", "liver_ct"))
    phantoms.add_argument("--out", required=True, help="folder to write to")
    phantoms.add_argument("--num-healthy", type=int, default=6)
    phantoms.add_argument("--num-train", type=int, default=40, help="of image_labels")
    phantoms.add_argument("--lesions", nargs=2, default=("SRF", "PED"), help="two kinds, of image_labels")
    phantoms.add_argument("--num-test", type=int, default=4)
    phantoms.add_argument("--difficulty", type=float, default=0.3, help="0 easy to 1 hard")
    phantoms.add_argument("--seed", type=int, default=0)
    phantoms.add_argument("--shape", type=int, nargs="+", help="of a case; volumes: A-scans, rows, B-scans for oct")
    phantoms.add_argument(
        "--layout",
        choices=("folders", "retouch", "image_labels", "spectralis"),
        default="folders",
        help="of oct: retouch, with labeled fluids; image_labels, B-scans and labels.csv; spectralis, .vol files",
    )
    phantoms.set_defaults(function=_phantoms)


def _run(known: argparse.Namespace, rest: list[str]) -> None:
    from monai_anomaly import workflows

    names = [*known.configs, *known.config]
    files = workflows.config_files(workflows.find_bundle(known.bundle), names)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    workflow = workflows.StrictConfigWorkflow(files, override=_overrides(rest), workflow_type=None)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("ignite", "monai_anomaly.engines")) and name.endswith("Evaluator"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _report(known: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from monai_anomaly.pages import write_report

    sys.stdout.write(f"{write_report(known.folders, known.out, known.anonymize, known.max_size)}\n")


def _view(known: argparse.Namespace, rest: list[str]) -> None:
    del rest
    import tempfile
    import webbrowser

    from monai_anomaly.pages import write_view

    out = known.out or tempfile.mkdtemp(prefix="monai_anomaly_")
    page = write_view(known.image, known.map, known.label, out, known.slice_axis, known.max_size)
    sys.stdout.write(f"{page}\n")
    if not known.no_browser:
        webbrowser.open(page.resolve().as_uri())


def _compare(known: argparse.Namespace, rest: list[str]) -> None:
    _prepare_for_many_runs()
    from monai_anomaly.experiments import run_compare

    options = {k: v for k, v in vars(known).items() if k not in _NOT_OF_EXPERIMENTS and v is not None}
    report = run_compare(**options, configs=known.config, overrides=_overrides(rest))
    sys.stdout.write(f"{report}\n")


def _thresholds(known: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from monai_anomaly.experiments import run_thresholds, thresholds_text

    sys.stdout.write(thresholds_text(run_thresholds(known.healthy, known.judged, known.rates)))


def _prepare_for_many_runs() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    warnings.filterwarnings("ignore", module="ignite|monai")


_NOT_OF_EXPERIMENTS = ("debug", "command", "name", "function", "config")


def _experiment(known: argparse.Namespace, rest: list[str]) -> None:
    _prepare_for_many_runs()
    from monai_anomaly.experiments import EXPERIMENTS

    options = {k: v for k, v in vars(known).items() if k not in _NOT_OF_EXPERIMENTS and v is not None}
    report = EXPERIMENTS[known.name](**options, configs=known.config, overrides=_overrides(rest))
    sys.stdout.write(f"{report}\n")


def _overrides(rest: Sequence[str]) -> dict[str, str]:
    """Return ``--key value`` and ``--key=value`` pairs.

    Raises:
        ValueError: a word that is neither a key nor a key's value.
    """
    pairs: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            msg = f"Expected --key value, got {word!r}."
            raise ValueError(msg)
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                msg = f"--{key} has no value; write --{key} VALUE."
                raise ValueError(msg)
            value = words.pop(0)
        pairs[key] = value
    return pairs


def _bundles(known: argparse.Namespace, rest: list[str]) -> None:
    del known, rest
    from monai_anomaly import workflows

    for bundle in workflows.list_bundles():
        configs = " ".join(sorted(path.stem for path in (bundle / "configs").glob("*.yaml")))
        sys.stdout.write(f"{bundle.name.split('_')[0]}\t{bundle.name}\n\tconfigs: {configs}\n")


def _datasets(known: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from monai_anomaly.data import list_specs, load_spec

    if known.spec is not None:
        import yaml

        sys.stdout.write(yaml.safe_dump(load_spec(known.spec), sort_keys=False, allow_unicode=True, width=110))
        return
    for name in list_specs():
        spec = load_spec(name)
        used = f"; used by {', '.join(spec['used_by'])}" if spec.get("used_by") else ""
        sys.stdout.write(f"{name}\t{spec['title']}\n\t{spec['modality']}, {spec['dimensions']}-D{used}\n")
        sys.stdout.write(f"\tlicence: {spec['licence']}; get it: {spec['source']}\n")


def _datalist(known: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from monai_anomaly.data import build_datalist, detect_spec, load_spec, shared_patients, with_folds, write_datalist

    spec = detect_spec(known.root, known.dimensions or 2) if known.spec == "auto" else load_spec(known.spec)
    if known.dimensions:
        spec = {**spec, "dimensions": known.dimensions}
    datalist = build_datalist(spec, known.root)
    if not any(datalist.values()):
        msg = f"No case of {spec['name']} in {known.root}; expected {', '.join(spec['detect']) or 'image files'}."
        raise FileNotFoundError(msg)
    shared = shared_patients(datalist)
    if shared and not known.allow_overlap:
        msg = (
            f"{len(shared)} patients are in two sections, the first of them with {' and '.join(shared[0])}; "
            f"move their files, or pass --allow_overlap."
        )
        raise ValueError(msg)
    if known.folds is not None:
        datalist = with_folds(datalist, spec, known.folds, known.seed)
    write_datalist(datalist, known.out, known.root, spec["name"] if known.spec == "auto" else known.spec)
    for section, records in datalist.items():
        for group in sorted({record["group"] for record in records}):
            chosen = [record for record in records if record["group"] == group]
            told = [n for n in spec.get("paper_counts", []) if (n["section"], n["group"]) == (section, group)]
            papers = "".join(f"; {n['paper']}: {n['count']} ({n['derived']})" for n in told)
            folds = [str(sum(record.get("fold") == fold for record in chosen)) for fold in range(known.folds or 0)]
            parted = f"; folds {' '.join(folds)}" if folds and section == "training" else ""
            sys.stdout.write(f"{section}\t{group}\t{len(chosen)}{parted}{papers}\n")


def _inspect(known: argparse.Namespace, rest: list[str]) -> int:
    del rest
    from monai_anomaly.inspection import inspect_dataset

    options = {key: getattr(known, key) for key in ("spec", "root", "dimensions", "headers_only", "workers")}
    report = inspect_dataset(known.source, known.out, **options)
    sys.stdout.write("\n".join([*report.lines(), f"{report.folder}/report.json", ""]))
    return int(report.num_errors > 0)


def _export(known: argparse.Namespace, rest: list[str]) -> None:
    from monai_anomaly import workflows

    names = [*(known.configs or ["inference"]), *known.config]
    file = workflows.export_bundle(workflows.find_bundle(known.bundle), known.out, names, _overrides(rest))
    sys.stdout.write(f"{file}\n")


def _check(known: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from monai_anomaly import workflows

    bundle = workflows.find_bundle(known.bundle)
    checked = workflows.check_bundle(bundle, known.schema)
    sys.stdout.write(f"{bundle.name}: {', '.join(checked)} are in order\n")


def _phantoms(known: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from monai_anomaly.data.phantoms import (
        write_image_labels_layout,
        write_phantoms,
        write_retouch_layout,
        write_spectralis_layout,
    )

    shape = tuple(known.shape) if known.shape else None
    if known.layout != "folders":
        if known.modality != "oct":
            msg = f"The layout {known.layout} is for oct, got {known.modality!r}."
            raise ValueError(msg)
        if known.layout == "retouch":
            write_retouch_layout(known.out, known.num_test, 0, known.num_healthy, known.difficulty, known.seed, shape)
        elif known.layout == "spectralis":
            write_spectralis_layout(known.out, known.num_test, known.difficulty, known.seed, shape)
        else:
            counts = (known.num_healthy, known.num_train, known.num_test)
            write_image_labels_layout(known.out, *counts, known.difficulty, known.seed, shape, tuple(known.lesions))
        sys.stdout.write(f"{known.out}\n")
        return
    write_phantoms(
        known.modality,
        known.out,
        num_healthy=known.num_healthy,
        num_test=known.num_test,
        difficulty=known.difficulty,
        seed=known.seed,
        shape=shape,
    )
    sys.stdout.write(f"{known.out}\n")


if __name__ == "__main__":
    sys.exit(main())
