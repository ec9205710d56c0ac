"""``python -m monai_anomaly``: run bundles strictly, with short errors, and look at data before that."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence

from monai_anomaly.arguments import argument_parser
from monai_anomaly.checks import root_cause


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 1 after one line that says what was wrong."""
    parser = argument_parser(__doc__)
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command not in ("run", "experiment", "compare", "export", "label_server"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for noise in (".*GHSA-.*", ".*arbitrary code.*", "NvImgCodecPydicomReader.*"):
        warnings.filterwarnings("ignore", message=noise)
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    try:
        return int(_COMMANDS[known.command](known, rest) or 0)
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


_NOT_OF_EXPERIMENTS = ("debug", "command", "name", "config")


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


def _label_server(known: argparse.Namespace, rest: list[str]) -> None:
    from monai_anomaly import workflows

    names = [*(known.configs or ["inference"]), *known.config]
    bundle = workflows.find_bundle(known.bundle)
    folder = workflows.export_label_server(bundle, known.out, names, _overrides(rest), known.threshold)
    sys.stdout.write(f"{folder}\n")


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


_COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], int | None]] = {
    "bundles": _bundles,
    "check": _check,
    "compare": _compare,
    "datalist": _datalist,
    "datasets": _datasets,
    "experiment": _experiment,
    "export": _export,
    "inspect": _inspect,
    "label_server": _label_server,
    "phantoms": _phantoms,
    "report": _report,
    "run": _run,
    "thresholds": _thresholds,
    "view": _view,
}


if __name__ == "__main__":
    sys.exit(main())
