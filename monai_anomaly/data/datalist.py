"""From a folder to a datalist in MONAI's Decathlon form: sections of records that name their files."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai_anomaly.checks import check_directory
from monai_anomaly.data.dicom import is_series
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
    datalist, missing = find_cases(spec, root)
    if missing:
        shown = "; ".join(missing[:20]) + (f"; and {len(missing) - 20} more" if len(missing) > 20 else "")
        msg = f"{len(missing)} files of {spec['name']} are missing or unpaired below {root}: {shown}."
        raise FileNotFoundError(msg)
    return datalist


def find_cases(spec: Spec, root: str | Path) -> tuple[Datalist, list[str]]:
    """Return the cases as `build_datalist` does, and what is missing or unpaired, one line each."""
    folder = check_directory("dataset_dir", root)
    datalist: Datalist = {section: [] for section in SECTIONS}
    missing: list[str] = []
    for part in spec["parts"]:
        datalist[part["section"]] += list(_cases_of_part(spec, part, folder, missing))
    if "split" in spec:
        rest, test = split_by_patient(datalist["training"], spec["split"]["test_fraction"], spec["split"]["seed"])
        datalist["training"], datalist["test"] = rest, test
    return datalist, missing


def shared_patients(datalist: Datalist) -> dict[str, list[str]]:
    """Return the patients who are in more than one section, with the sections.

    Only records whose patient is known count: where a data set does not tell, every case is its own patient.
    """
    sections: dict[str, set[str]] = defaultdict(set)
    for section, records in datalist.items():
        for record in records:
            if record["patient"] != record["case"]:
                sections[str(record["patient"])].add(section)
    return {patient: sorted(where) for patient, where in sections.items() if len(where) > 1}


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
        records = read_datalist(Path(spec), folder).get(section, [])
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
        return {"values": None, "lesions": None, "organ": None, "polarity": "positive"}
    found = detect_spec(root, dimensions) if spec == "auto" else load_spec(spec)
    keys = {"values": "label_values", "lesions": "lesion_values", "organ": "organ_values"}
    return {**{name: found.get(key) for name, key in keys.items()}, "polarity": found.get("mask_polarity", "positive")}


def write_datalist(datalist: Datalist, file: str | Path, root: str | Path) -> None:
    """Write a datalist as JSON with paths relative to ``root``, all at once or not at all."""
    folder = Path(root)

    def relative(value: Any) -> Any:
        return [str(Path(v).relative_to(folder)) for v in value] if isinstance(value, list) else value

    plain = {
        section: [
            {k: str(Path(v).relative_to(folder)) if k == "image" else relative(v) for k, v in record.items()}
            for record in records
        ]
        for section, records in datalist.items()
    }
    write_atomically(file, lambda temporary: temporary.write_text(json.dumps(plain, indent=4) + "\n", encoding="utf-8"))


def read_datalist(file: Path, folder: Path) -> Datalist:
    """Return a datalist's sections from JSON, paths made absolute below ``folder``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"The datalist {str(file)!r} does not exist; write one with `python -m monai_anomaly datalist`."
        raise FileNotFoundError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"The datalist {str(file)!r} is not JSON ({error}); expected sections of records."
        raise ValueError(msg) from error
    result: Datalist = {}
    for section in SECTIONS:
        for record in content.get(section, []):
            full = {**record, "image": str(folder / record["image"])}
            for key in ("label", "exclude", "organ"):
                paths = record.get(key, [])
                full[key] = [str(folder / path) for path in ([paths] if isinstance(paths, str) else paths)]
            full.setdefault("patient", record["image"])
            full.setdefault("case", record["image"].removesuffix(suffix_of(record["image"])))
            full.setdefault("group", "unlabeled")
            result.setdefault(section, []).append(full)
    return result


def _cases_of_part(spec: Spec, part: dict[str, Any], folder: Path, missing: list[str]) -> Iterator[Record]:
    images = dict(_find_images(part["image"], folder, spec["dimensions"]))
    listed = _read_table(part["table"], folder, missing) if "table" in part else None
    if listed is not None:
        missing += [f"image of {name} ({part['image']})" for name in listed if name not in images]
    plain = spec["name"] in PLAIN_LAYOUTS  # names there may come again in another section
    masks = {key: _index_masks(part.get(key, {}), folder) for key in ("label", "exclude", "organ")}
    for name, image in images.items():
        if listed is not None and name not in listed:
            continue
        label = _masks_of(masks["label"], name)
        if not _masks_fit(part.get("masks", "optional"), label, part.get("label", {}), image, folder, missing):
            continue
        files = [str(path) for path in label.values()]
        if part.get("masks") == "none":
            files = []
        relative = str(image.relative_to(folder))
        tail = part["image"].rpartition("{case}")[2]  # .mat, or .img of a folder, which no list of suffixes knows
        case = relative.removesuffix(suffix_of(relative)).removesuffix(tail if "/" not in tail else "")
        patient = re.search(part["patient"], relative) if "patient" in part else None
        group = part["group"]
        yield {
            "image": str(image),
            "label": files,
            **{key: [str(path) for path in _masks_of(masks[key], name).values()] for key in ("exclude", "organ")},
            "case": case,
            "patient": patient[1] if patient else case if plain else name.removesuffix(suffix_of(name)),
            "group": ("abnormal" if files else group) if group == "unlabeled" else group,
            **({"grade": listed[name]} if listed and listed[name] is not None else {}),
        }


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
    for path in sorted(folder.glob(pattern.replace("{case}", "*"))):
        match = regex.fullmatch(path.relative_to(folder).as_posix())
        if match is None or any(piece.startswith(".") for piece in path.relative_to(folder).parts):
            continue
        if path.is_dir():
            whole = is_series(path) if free else any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
            if dimensions == 3 and whole:
                yield match["case"], path
        elif path.is_file() and (not free or (suffix_of(path.name).lower() in suffixes and not _is_slice(path))):
            yield match["case"], path


def _is_slice(path: Path) -> bool:
    """Whether a file is one of a folder's DICOM slices, which are one volume."""
    return path.suffix.lower() == ".dcm" and is_series(path.parent)


def _index_masks(patterns: dict[str, str], folder: Path) -> dict[str, dict[str, Path]]:
    """Return by kind the masks there are, by the names of their cases; each folder is looked through once."""
    index: dict[str, dict[str, Path]] = {}
    for kind, pattern in patterns.items():
        regex = re.compile(_as_regex(pattern))
        free = pattern.endswith("{case}")  # the label may have another suffix than the image
        index[kind] = {}
        for path in sorted(folder.glob(pattern.replace("{case}", "*"))):
            match = regex.fullmatch(path.relative_to(folder).as_posix())
            if match is not None and (suffix_of(path.name) or not free):
                name = match["case"]
                index[kind].setdefault(name.removesuffix(suffix_of(name)) if free else name, path)
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
