"""What ``python -m monai_anomaly`` can be told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the command line; the command is in ``command``."""
    parser = argparse.ArgumentParser(prog="python -m monai_anomaly", description=description, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the whole trace of an error")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run a bundle's config, strict about overrides", allow_abbrev=False)
    run.add_argument("bundle", help="stem (resad), name or folder")
    run.add_argument(
        "configs", nargs="+", help="configs by name, later ones laid over earlier: train inference evaluate"
    )
    run.add_argument("--config", action="append", default=[], help="one more config to lay over, e.g. data_volume")

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

    compare = commands.add_parser("compare", help="detectors on the same cases: one table", allow_abbrev=False)
    compare.add_argument("--out", required=True, help="folder of everything; a second start goes on there")
    compare.add_argument("--dataset_dir", help="healthy cases in training, labeled ones in test; phantoms by default")
    compare.add_argument("--modalities", default="oct", type=_listed, help="oct, fundus, brain_mri: commas between")
    compare.add_argument("--detectors", type=_listed, help="commas between; by default all for the modality")
    compare.add_argument("--small", action="store_true", help="networks and epochs for minutes of a CPU")
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--config", action="append", default=[], help="a config to lay over all others, e.g. smoke")

    thresholds = commands.add_parser("thresholds", help="of the score: from healthy cases, and what they cost")
    thresholds.add_argument("healthy", help="output_dir of a run on healthy cases that nothing was fitted on")
    thresholds.add_argument("judged", metavar="OUT", help="output_dir of a run to judge, with the same weights")
    thresholds.add_argument("--rates", type=float, nargs="+", default=(0.05, 0.1, 0.2), help="false-positive rates")


def _listed(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _add_bundle_commands(commands: Any) -> None:
    commands.add_parser("bundles", help="list the bundles and their configs")

    export = commands.add_parser("export", help="write a bundle's network as an ONNX file", allow_abbrev=False)
    export.add_argument("bundle", help="stem, name or folder")
    export.add_argument("configs", nargs="*", default=["inference"], help="configs by name that have the network")
    export.add_argument("--config", action="append", default=[], help="one more config to lay over, e.g. data_volume")
    export.add_argument("--out", required=True, help="the .onnx file to write")

    served = commands.add_parser("label_server", help="write a bundle as MONAI Label serves it", allow_abbrev=False)
    served.add_argument("bundle", help="stem, name or folder")
    served.add_argument("configs", nargs="*", default=["inference"], help="configs by name: inference data_volume")
    served.add_argument("--config", action="append", default=[], help="one more config to lay over, e.g. data_volume")
    served.add_argument("--out", required=True, help="a new folder, APP/model/NAME")
    served.add_argument("--threshold", type=float, default=0.5, help="of maps in [0, 1], where there are maps alone")

    check = commands.add_parser("check", help="run the model zoo's checks on a bundle")
    check.add_argument("bundle", help="stem, name or folder")
    check.add_argument("--schema", type=Path, help="file of the metadata schema, to check against offline")


def _add_data_commands(commands: Any) -> None:
    datasets = commands.add_parser("datasets", help="list the data specs, or tell all about one")
    datasets.add_argument("spec", nargs="?", help="a data spec's name or YAML file")

    datalist = commands.add_parser("datalist", help="write a data set's cases as a datalist")
    datalist.add_argument("spec", help="a data spec's name or YAML file, or auto")
    datalist.add_argument("--root", required=True, help="the data set's folder")
    datalist.add_argument("--out", required=True, help="the JSON file to write")
    datalist.add_argument("--dimensions", type=int, choices=(2, 3), help="of the files, where the spec leaves it open")
    datalist.add_argument("--folds", type=int, help="number the training cases 0 to FOLDS - 1, patients whole")
    datalist.add_argument("--seed", type=int, default=0, help="of the folds")
    datalist.add_argument("--allow_overlap", action="store_true", help="keep patients who are in two sections")

    inspect = commands.add_parser("inspect", help="look at data before training; exit status 1 says it may not start")
    inspect.add_argument("source", help="a folder, a datalist's JSON, or one image or volume")
    inspect.add_argument("--out", default="inspection", help="folder for the tables, the JSON and the contact sheet")
    inspect.add_argument("--spec", default="auto", help="a data spec's name or YAML file")
    inspect.add_argument("--root", help="of a datalist: the folder its paths are relative to")
    inspect.add_argument("--dimensions", type=int, choices=(2, 3), help="images or volumes, in a plain folder")
    inspect.add_argument("--headers_only", action="store_true", help="read no pixels where headers tell the shape")
    inspect.add_argument("--workers", type=int, help="processes; as many as cores, eight at most, by default")

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
