"""Which lesions an image has, told by a table or by the folder it lies in."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_anomaly.checks import check_directory, check_file, check_option, did_you_mean
from monai_anomaly.keys import CASE, PRESENT

logger = logging.getLogger(__name__)

SOURCES = ("auto", "table", "folders", "masks")
TABLE = "labels.csv"
_YES, _NO = {"1", "1.0", "True", "true"}, {"0", "0.0", "False", "false"}
_NAME_COLUMNS, _LIST_COLUMNS = ("image", "case", "file", "name"), ("labels", "label")


def label_source(source: str, root: str | Path, table: str | Path | None = None) -> str:
    """Return where image labels come from: "table", "folders" or "masks".

    Args:
        source: one of these, or "auto": the table where there is one, else the folders.
        root: the data set's folder.
        table: its CSV file, by default ``labels.csv`` in the root.

    Raises:
        ValueError: an unknown source.
    """
    check_option("image_labels", source, SOURCES)
    if source != "auto":
        return source
    return "table" if table is not None or (check_directory("dataset_dir", root) / TABLE).is_file() else "folders"


def with_image_labels(
    records: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    root: str | Path,
    source: str = "auto",
    table: str | Path | None = None,
    healthy_name: str = "NORMAL",
    complete: bool = True,
    partial: bool = False,
) -> list[dict[str, Any]]:
    """Return the records, each with "present": 0 or 1 for every class.

    A table has a row per image: its name or path in a column "image" (or the first), and either a column per class
    holding 0 or 1, or one column "labels" with names of classes, ";" between them; a column "patient" is taken over.
    Folders: the one an image lies in has the name of its class, or ``healthy_name``. "masks" leaves the records alone:
    the label files tell.

    Args:
        records: each with "image" and "case".
        class_names: of the lesions.
        root: the data set's folder.
        source: see `label_source`.
        table: see `label_source`; a relative path is taken from the working directory, else from the root.
        healthy_name: of healthy images, as a folder or in a table's list.
        complete: every class has to be somebody's, as training needs it.
        partial: take from a table what it says, patients and labels, and leave other images, and folders, alone; of
            labeled images, for which the table is no more than a help.

    Raises:
        FileNotFoundError: no such table.
        ValueError: the table has no such class; images without a label, all counted; a class that nobody has.
    """
    source = label_source(source, root, table)
    if source == "masks":
        bare = [record[CASE] for record in records if not record.get("label")]
        if bare and len(bare) < len(records):
            known = "%d of %d cases have no label file: they count as healthy, %s among them."
            logger.warning(known, len(bare), len(records), bare[0])
    if source == "masks" or (partial and source == "folders"):
        return [dict(record) for record in records]
    if source == "table":
        told = _from_table(records, class_names, _table_file(root, table), healthy_name, partial)
    else:
        told = _from_folders(records, class_names, healthy_name)
    if complete and not partial:
        for number, name in enumerate(class_names):
            if not any(record[PRESENT][number] for record in told):
                msg = f"None of the {len(told)} images has {name!r}; leave it out of class_names, or give images of it."
                raise ValueError(msg)
    return told


def _table_file(root: str | Path, table: str | Path | None) -> Path:
    file = Path(root) / TABLE if table is None else Path(table)
    if not file.is_file() and (Path(root) / file).is_file():
        file = Path(root) / file
    return check_file("labels_file", file, f"pass a CSV file (--labels_file FILE), or put {TABLE} into dataset_dir.")


def _read_rows(file: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return a table's rows by the image's name, and its columns, tolerating a byte-order mark and spaces."""
    with file.open(newline="", encoding="utf-8-sig") as handle:
        rows = [{(k or "").strip(): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(handle)]
    if not rows:
        msg = f"{file.name} has no rows; expected one per image."
        raise ValueError(msg)
    columns = list(rows[0])
    name_column = next((c for c in _NAME_COLUMNS if c in columns), columns[0])
    twice = [name for name, count in Counter(row[name_column] for row in rows).items() if count > 1]
    if twice:
        msg = f"{file.name} has several rows for {twice[0]!r}; expected one per image, with all its labels."
        raise ValueError(msg)
    return {row[name_column]: row for row in rows}, [c for c in columns if c != name_column]


def _rows_of(records: Sequence[Mapping[str, Any]], by_name: Mapping[str, Any], file: Path) -> list[Any]:
    """Return each record's row, found by its path or, where that is one image's alone, by its name; else None."""
    found: list[Any] = []
    taken: dict[str, str] = {}
    for record in records:
        image = Path(record["image"])
        names = (record[CASE], f"{record[CASE]}{image.suffix}", image.name, image.stem)
        name = next((name for name in names if name in by_name), None)
        if name is not None and taken.setdefault(name, record[CASE]) != record[CASE]:
            msg = f"{file.name}: {name!r} may be {taken[name]} or {record[CASE]}; write paths below dataset_dir."
            raise ValueError(msg)
        found.append(None if name is None else by_name[name])
    return found


def _from_table(
    records: Sequence[Mapping[str, Any]], class_names: Sequence[str], file: Path, healthy_name: str, partial: bool
) -> list[dict[str, Any]]:
    by_name, columns = _read_rows(file)
    list_column = next((c for c in _LIST_COLUMNS if c in columns), None)
    absent = [name for name in class_names if name not in columns]
    if absent and (list_column is None or len(absent) < len(class_names)):
        hint = did_you_mean(absent[0], columns)
        msg = f"{file.name} has the columns {', '.join(columns)}; expected one for {absent[0]!r}.{hint}"
        raise ValueError(msg)
    rows = _rows_of(records, by_name, file)
    missing = [record[CASE] for record, row in zip(records, rows, strict=True) if row is None]
    if missing and not partial:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        msg = f"{len(missing)} of {len(records)} images have no row in {file.name}: {shown}; add them."
        raise ValueError(msg)
    found = []
    for record, row in zip(records, rows, strict=True):
        if row is None:
            found.append(dict(record))
            continue
        present = (
            _from_list(row[list_column], class_names, file, healthy_name)
            if absent and list_column is not None
            else [_flag(row[name], name, file) for name in class_names]
        )
        patient = {"patient": row["patient"]} if row.get("patient") else {}
        found.append({**record, PRESENT: present, **patient})
    return found


def _flag(value: str, name: str, file: Path) -> float:
    if value not in _YES | _NO:
        msg = f"{file.name} holds {value!r} under {name!r}; expected 0 or 1."
        raise ValueError(msg)
    return float(value in _YES)


def _from_list(value: str, class_names: Sequence[str], file: Path, healthy_name: str) -> list[float]:
    names = _listed(value)
    unknown = sorted(names - set(class_names) - {healthy_name})
    if unknown:
        msg = (
            f"{file.name} holds the label {unknown[0]!r}; expected {', '.join(class_names)} or {healthy_name}: "
            f"add it to class_names.{did_you_mean(unknown[0], class_names)}"
        )
        raise ValueError(msg)
    return [float(name in names) for name in class_names]


def _listed(value: str) -> set[str]:
    return {name.strip() for name in re.split(r"[;,|]", value) if name.strip()}


def _from_folders(
    records: Sequence[Mapping[str, Any]], class_names: Sequence[str], healthy_name: str
) -> list[dict[str, Any]]:
    folders = [_folder(record) for record in records]
    unknown = sorted(set(folders) - set(class_names) - {healthy_name})
    if unknown:
        msg = (
            f"Images lie in folders {', '.join(map(repr, unknown[:5]))}; expected {', '.join(class_names)} or "
            f"{healthy_name}: set class_names, or pass a table (--labels_file FILE)."
            f"{did_you_mean(unknown[0], class_names)}"
        )
        raise ValueError(msg)
    return [
        {**record, PRESENT: [float(folder == name) for name in class_names]}
        for record, folder in zip(records, folders, strict=True)
    ]


def only_healthy(
    records: Sequence[Mapping[str, Any]],
    dimensions: int = 2,
    root: str | Path | None = None,
    table: str | Path | None = None,
    healthy_name: str = "NORMAL",
) -> list[dict[str, Any]]:
    """Return the images that are not known to be abnormal; of volumes all, whose slices are chosen later.

    What is known: the data spec's group; a table's row (see `with_image_labels`), whatever its classes are; without a
    table the folder, where some images lie in one named ``healthy_name``: the others are not healthy.

    Raises:
        ValueError: none is left.
    """
    kept = [dict(record) for record in records if dimensions == 3 or record.get("group") != "abnormal"]
    if root is not None and (table is not None or (Path(root) / TABLE).is_file()):
        file = _table_file(root, table)
        by_name, _ = _read_rows(file)
        rows = _rows_of(kept, by_name, file)
        kept = [
            {**record, **({"patient": row["patient"]} if row and row.get("patient") else {})}
            for record, row in zip(kept, rows, strict=True)
            if row is None or _is_healthy(row, healthy_name)
        ]
    elif dimensions == 2 and any(_folder(record) == healthy_name for record in kept):
        kept = [record for record in kept if _folder(record) == healthy_name]
    if not kept:
        msg = f"All {len(records)} cases are abnormal; healthy ones are learned from: pass another --dataset_dir."
        raise ValueError(msg)
    return kept


def _folder(record: Mapping[str, Any]) -> str:
    return Path(record["image"]).parent.name


def _is_healthy(row: Mapping[str, str], healthy_name: str) -> bool:
    """Whether a row marks no class, in a column or a list."""
    listed = {name for column in _LIST_COLUMNS for name in _listed(row.get(column, ""))}
    marked = [v for k, v in row.items() if k not in (*_LIST_COLUMNS, *_NAME_COLUMNS, "patient")]
    return not listed - {healthy_name} and not set(marked) & _YES


def judgeable(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records without those that are known to have a lesion and have no label file of it."""
    kept = [dict(record) for record in records if record.get("label") or not any(record.get(PRESENT, ()))]
    if len(kept) < len(records):
        logger.warning("%d cases have a lesion and no label file: they are not judged", len(records) - len(kept))
    return kept
