"""From a folder to a datalist in MONAI's Decathlon form: sections of records that name their files."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from monai_anomaly.checks import check_directory
from monai_anomaly.data.dicom import is_dicom, volumes_of
from monai_anomaly.data.specs import PLAIN_LAYOUTS, Spec, detect_spec, load_spec
from monai_anomaly.data.splits import split_by_patient
from monai_anomaly.data.suffixes import IMAGE_SUFFIXES, VOLUME_SUFFIXES, suffix_of
from monai_anomaly.data.writers import write_atomically

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Datalist = dict[str, list[Record]]

SECTIONS = ("training", "validation", "test")


def build_datalist(spec: Spec, root: str | Path) -> Datalist:
    """Return the cases of every section of a data set.

    A record has "image" (a path), "label", "exclude" and "organ" (lists of mask paths, empty for none), "case" (its
    place under the root, without suffix), "patient" and "group" ("normal", "abnormal" or "unlabeled"), and where the
    data set has grades, "grade".

    Args:
        spec: of the data set, see `load_spec`.
        root: its folder.

    Raises:
        FileNotFoundError: images or masks that should be there are missing; all of them are listed.
    """
    found = find_cases(spec, root)
    if found.missing:
        count, shown = len(found.missing), "; ".join(found.missing[:20])
        more = f"; and {count - 20} more" if count > 20 else ""
        msg = f"{count} files of {spec['name']} are missing or unpaired below {root}: {shown}{more}."
        raise FileNotFoundError(msg)
    if found.orphans:
        listed = ", ".join(str(path.relative_to(root)) for path in found.orphans[:3])
        logger.warning("%d label files belong to no image, the first of them %s.", len(found.orphans), listed)
    return found.datalist


@dataclass
class Found:
    """What there is of a data set: its cases, one line for each missing file, and labels that belong to no image."""

    datalist: Datalist
    missing: list[str] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)


def find_cases(spec: Spec, root: str | Path) -> Found:
    """Return the cases as `build_datalist` does, and what is missing or left over."""
    folder = check_directory("dataset_dir", root)
    found = Found({section: [] for section in SECTIONS})
    labels: set[Path] = set()
    for part in spec["parts"]:
        found.datalist[part["section"]] += list(_cases_of_part(spec, part, folder, found.missing, labels))
    used = {path for records in found.datalist.values() for record in records for path in record["label"]}
    found.orphans = sorted(path for path in labels if str(path) not in used)
    if "split" in spec:
        rest, test = split_by_patient(found.datalist["training"], spec["split"]["test_fraction"], spec["split"]["seed"])
        found.datalist["training"], found.datalist["test"] = rest, test
    return found


def shared_patients(datalist: Datalist) -> list[tuple[str, str]]:
    """Return pairs of cases of one patient in different sections, one pair for each such patient.

    Where a data set does not tell its patients, every case is its own. Patients are not named: a list may hold names.
    """
    first: dict[str, tuple[str, str]] = {}
    pairs: dict[str, tuple[str, str]] = {}
    for section, records in datalist.items():
        for record in records:
            if record["patient"] == record["case"]:
                continue
            before = first.setdefault(str(record["patient"]), (section, record["case"]))
            if before[0] != section:
                pair = (f"{before[1]} ({before[0]})", f"{record['case']} ({section})")
                pairs.setdefault(str(record["patient"]), pair)
    return list(pairs.values())


def load_datalist(root: str | Path, section: str, spec: str = "auto", dimensions: int = 2) -> list[Record]:
    """Return one section of a data set, for a bundle's ``dataset``.

    Args:
        root: the data set's folder.
        section: "training", "validation" or "test".
        spec: a spec's name, a spec's YAML file, a datalist's JSON file (paths relative to ``root``), or "auto".
        dimensions: 2 for images, 3 for volumes; used by "auto" and the plain layouts.

    Raises:
        FileNotFoundError: no such folder, no case in the section, or missing files.
        TypeError: ``root`` is a number.
        ValueError: an unknown spec, or two files that would share one output.
    """
    folder = check_directory("dataset_dir", root)
    if str(spec).endswith(".json"):
        records = read_datalist(Path(spec), folder)[0].get(section, [])
        chosen = str(spec)
    else:
        found = detect_spec(folder, dimensions) if spec == "auto" else load_spec(spec)
        if found["name"] in PLAIN_LAYOUTS:
            found = {**found, "dimensions": dimensions}
        records = build_datalist(found, folder)[section]
        chosen = found["name"]
    if not records:
        kinds = VOLUME_SUFFIXES if dimensions == 3 else IMAGE_SUFFIXES
        msg = (
            f"No {section} case in {str(folder)!r} (data spec {chosen!r}); expected its layout, train/images and "
            f"test/images, or files ending in {' '.join(kinds)}: pass another --dataset_dir or --data_spec."
        )
        raise FileNotFoundError(msg)
    twice = sorted(case for case, count in Counter(record["case"] for record in records).items() if count > 1)
    if twice:
        msg = f"Files that differ in their suffix alone would share one output: {', '.join(twice[:10])}; rename them."
        raise ValueError(msg)
    logger.info("%s: %d %s cases by data spec %s", folder, len(records), section, chosen)
    return records


def label_rules(root: str | Path, spec: str = "auto", dimensions: int = 2) -> dict[str, Any]:
    """Return how a data set's label files are read, for `LoadLesionMaskd`.

    "values" they may hold, those among them that are "lesions" and, in organ files, "organ", and the "polarity".

    Arguments and errors are those of `load_datalist`.
    """
    if str(spec).endswith(".json"):
        told = read_datalist(Path(spec))[1]
        found: Spec = {} if told is None else load_spec(told)
    else:
        found = detect_spec(root, dimensions) if spec == "auto" else load_spec(spec)
    keys = {"values": "label_values", "lesions": "lesion_values", "organ": "organ_values"}
    return {**{name: found.get(key) for name, key in keys.items()}, "polarity": found.get("mask_polarity", "positive")}


def write_datalist(datalist: Datalist, file: str | Path, root: str | Path, spec: str | None = None) -> None:
    """Write a datalist as JSON with paths relative to ``root``, all at once or not at all.

    Args:
        datalist: sections of records.
        file: to write.
        root: the data set's folder; the file says where it is from itself.
        spec: of the data set, its name or its YAML file, for those who read the labels.
    """
    folder = Path(root)
    if spec is not None and Path(spec).suffix in {".yaml", ".yml"}:
        spec = os.path.relpath(spec, Path(file).parent)

    def relative(value: Any) -> Any:
        return [str(Path(v).relative_to(folder)) for v in value] if isinstance(value, list) else value

    plain: dict[str, Any] = {
        section: [
            {k: str(Path(v).relative_to(folder)) if k == "image" else relative(v) for k, v in record.items()}
            for record in records
        ]
        for section, records in datalist.items()
    }
    told = {"root": os.path.relpath(folder, Path(file).parent), **({"spec": spec} if spec else {})}
    text = json.dumps({**told, **plain}, indent=4) + "\n"
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_datalist(file: Path, folder: Path | None = None) -> tuple[Datalist, str | None]:
    """Return a datalist's sections from JSON, paths made absolute, and its spec's name or file where it tells it.

    Args:
        file: as `write_datalist` makes it, or MONAI's Decathlon form.
        folder: that paths are relative to; None for the one the file names, else the file's own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or no sections of records.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"The datalist {str(file)!r} does not exist; write one with `python -m monai_anomaly datalist`."
        raise FileNotFoundError(msg) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"The datalist {str(file)!r} is not JSON ({error}); expected sections of records."
        raise ValueError(msg) from error
    if not isinstance(content, dict):
        msg = f"The datalist {str(file)!r} holds no sections; expected {', '.join(SECTIONS)}."
        raise ValueError(msg)
    base = folder if folder is not None else file.parent / str(content.get("root", "."))
    result: Datalist = {}
    for section in SECTIONS:
        for entry in content.get(section, []):
            record = {"image": entry} if isinstance(entry, str) else dict(entry)
            full = {**record, "image": str(base / record["image"])}
            for key in ("label", "exclude", "organ"):
                paths = record.get(key, [])
                full[key] = [str(base / path) for path in ([paths] if isinstance(paths, str) else paths)]
            full.setdefault("case", record["image"].removesuffix(suffix_of(record["image"])))
            full.setdefault("patient", full["case"])
            full.setdefault("group", "unlabeled")
            result.setdefault(section, []).append(full)
    told = content.get("spec")
    if told is not None and Path(told).suffix in {".yaml", ".yml"}:
        told = str(file.parent / told)
    return result, told


def _cases_of_part(
    spec: Spec, part: dict[str, Any], folder: Path, missing: list[str], labels: set[Path]
) -> Iterator[Record]:
    """Yield the cases of a part of a data set; note what is missing, and all label files there are."""
    images = list(_find_images(part["image"], folder, spec["dimensions"]))
    names = {name for name, _ in images}
    listed = _read_table(part["table"], folder, missing) if "table" in part else None
    if listed is not None:
        missing += [f"image of {name} ({part['image']})" for name in listed if name not in names]
    masks = {key: _index_masks(part.get(key, {}), folder) for key in ("label", "exclude", "organ")}
    labels.update(path for paths in masks["label"].values() for path in paths.values())
    for name, image in images:
        if listed is not None and name not in listed:
            continue
        label = _masks_of(masks["label"], name)
        if not _masks_fit(part.get("masks", "optional"), label, part.get("label", {}), image, folder, missing):
            continue
        files = [str(path) for path in label.values()]
        if part.get("masks") == "none":
            files = []
        case = _case_of(image, part["image"], folder)
        patient = re.search(part["patient"], str(image.relative_to(folder))) if "patient" in part else None
        group = part["group"]
        yield {
            "image": str(image),
            "label": files,
            **{key: [str(path) for path in _masks_of(masks[key], name).values()] for key in ("exclude", "organ")},
            "case": case,
            "patient": patient[1] if patient else case,
            "group": ("abnormal" if files else group) if group == "unlabeled" else group,
            **({"grade": listed[name]} if listed and listed[name] is not None else {}),
        }


def _case_of(image: Path, pattern: str, folder: Path) -> str:
    """Return a case's place under the root, without suffix; the root's name where it is the image itself."""
    if image == folder:
        return folder.name
    relative = str(image.relative_to(folder))
    tail = pattern.rpartition("{case}")[2]  # .mat, or .img of a folder, which no list of suffixes knows
    return relative.removesuffix(suffix_of(relative)).removesuffix(tail if "/" not in tail else "")


def _masks_fit(
    rule: str, found: dict[str, Path], expected: dict[str, str], image: Path, folder: Path, missing: list[str]
) -> bool:
    """Whether a case belongs to the part, noting it as unpaired where its masks should be there and are not."""
    if rule in {"any", "none"}:
        return bool(found) == (rule == "any")
    enough = {"all": len(found) == len(expected), "some": bool(found), "optional": True}[rule]
    if not enough:
        lacking = ", ".join(kind for kind in expected if kind not in found)
        missing.append(f"mask ({lacking}) of {image.relative_to(folder)}")
    return True


def _find_images(pattern: str, folder: Path, dimensions: int) -> Iterator[tuple[str, Path]]:
    """Yield case names and files matching a pattern with one {case}, in the order of their paths."""
    suffixes = VOLUME_SUFFIXES if dimensions == 3 else IMAGE_SUFFIXES
    regex = re.compile(_as_regex(pattern))
    # a pattern that ends in {case} means any image or volume file, or a folder of DICOM slices; one that goes on
    # after it means what it says, a folder of B-scans as well
    free = pattern.endswith("{case}")
    volumes = cache(volumes_of)  # each folder is looked into once, for all of its files
    if free and dimensions == 3 and pattern.startswith("**/") and volumes(folder) == (folder,):
        yield folder.name, folder  # the data set is one series
    for path in sorted(folder.glob(pattern.replace("{case}", "*"))):
        match = regex.fullmatch(path.relative_to(folder).as_posix())
        if match is None or any(piece.startswith(".") for piece in path.relative_to(folder).parts):
            continue
        if path.is_dir():
            scans = not free and any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
            found = dimensions == 3 and (scans or (free and volumes(path) == (path,)))
        elif free and dimensions == 3 and is_dicom(path):
            found = path in volumes(path.parent)  # else it is a slice of a series
        else:
            found = path.is_file() and (not free or suffix_of(path.name).lower() in suffixes)
        if found:
            yield match["case"], path


def _index_masks(patterns: dict[str, str], folder: Path) -> dict[str, dict[str, Path]]:
    """Return by kind the masks there are, by the names of their cases; each folder is looked through once.

    Where a mask may have another suffix than its image, ``p1.seg.nrrd`` is p1's, unless there is a better one.
    """
    index: dict[str, dict[str, Path]] = {}
    for kind, pattern in patterns.items():
        regex = re.compile(_as_regex(pattern))
        free = pattern.endswith("{case}")
        found: dict[str, Path] = {}
        longer: dict[str, Path] = {}
        for path in sorted(folder.glob(pattern.replace("{case}", "*"))):
            match = regex.fullmatch(path.relative_to(folder).as_posix())
            if match is None or (free and not suffix_of(path.name)):
                continue
            name = match["case"].removesuffix(suffix_of(match["case"])) if free else match["case"]
            found.setdefault(name, path)
            while free and "." in name:
                name = name.rpartition(".")[0]
                longer.setdefault(name, path)
        index[kind] = {**longer, **found}
    return index


def _masks_of(index: dict[str, dict[str, Path]], name: str) -> dict[str, Path]:
    """Return a case's masks by kind."""
    names = (name, name.removesuffix(suffix_of(name)))
    return {
        kind: next(paths[n] for n in names if n in paths)
        for kind, paths in index.items()
        if any(n in paths for n in names)
    }


def _as_regex(pattern: str) -> str:
    pieces = re.split(r"(\*\*/|\*|\{case\})", pattern)
    known = {"**/": r"(?:.*/)?", "*": r"[^/]*", "{case}": r"(?P<case>[^/]+)"}
    return "".join(known.get(piece, re.escape(piece)) for piece in pieces)


def _read_table(table: dict[str, Any], folder: Path, missing: list[str]) -> dict[str, int | None]:
    """Return the cases a CSV lists and their grades, tolerating a byte-order mark, spaces and empty columns."""
    path = folder / table["file"]
    if not path.is_file():
        missing.append(table["file"])
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [{(k or "").strip(): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    grade = table.get("grade_column")
    for column in (table["case_column"], *table["where"], *([grade] if grade else [])):
        if rows and column not in rows[0]:
            columns = ", ".join(filter(None, rows[0]))
            msg = f"{path.name} has the columns {columns}; expected {column!r}: mend the data spec."
            raise ValueError(msg)
    wanted = {
        c: [str(v) for v in (value if isinstance(value, list) else [value])] for c, value in table["where"].items()
    }
    kept = [row for row in rows if all(row[c] in v for c, v in wanted.items())]
    return {row[table["case_column"]]: int(row[grade]) if grade else None for row in kept}
