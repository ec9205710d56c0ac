"""A data set: case by case in several processes, and what only shows across cases."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from monai_anomaly.checks import check_range, check_writable
from monai_anomaly.data import detect_spec, load_spec
from monai_anomaly.data.datalist import Found, find_cases, read_datalist, shared_patients
from monai_anomaly.data.dicom import volumes_of
from monai_anomaly.data.specs import PLAIN_LAYOUTS, Spec
from monai_anomaly.data.suffixes import IMAGE_SUFFIXES, VOLUME_SUFFIXES, suffix_of
from monai_anomaly.inspection.case import ERROR, WARNING, LabelRules, Look, Looks
from monai_anomaly.inspection.report import Report

logger = logging.getLogger(__name__)

_BATCH = 16
_NUM_PICTURES = 48
_MANY = 1000  # distinct spacings, shapes or the like that are counted

Case = tuple[str, Mapping[str, Any]]


def inspect_dataset(
    source: str | Path,
    out: str | Path,
    spec: str = "auto",
    root: str | Path | None = None,
    dimensions: int | None = None,
    headers_only: bool = False,
    workers: int | None = None,
) -> Report:
    """Look at every case of a folder, a datalist or a single file, and write what was seen.

    Files are read one by one, ``workers`` at a time: memory is that of as many cases, and about a kilobyte for each
    file. ``out`` gets ``cases.csv``, ``findings.csv``, ``report.json`` and ``contact_sheet.png``.

    Args:
        source: a folder, a datalist's JSON, or an image or volume.
        out: folder to write to.
        spec: of a folder: a data spec's name or YAML file, or "auto".
        root: of a datalist, the folder its paths are relative to; None for the one it names, else its own.
        dimensions: 2 for images, 3 for volumes; None for what the folder holds more of.
        headers_only: read no pixels where the header tells the shape: fast, but NaN, empty labels, label values and
            copies are not seen.
        workers: processes, 0 for none but this one; None for as many as there are cores, eight at most.

    Raises:
        FileNotFoundError: no such source, or no case in it.
        ValueError: an unknown spec, or a file that is no datalist.
    """
    if Path(out).resolve().is_relative_to(Path(source).resolve()):
        msg = f"--out {str(out)!r} lies within the data, and would become part of them; pass a folder elsewhere."
        raise ValueError(msg)
    workers = min(8, torch.get_num_threads()) if workers is None else workers
    check_range("workers", workers, 0)
    found, rules, name = _cases_of(Path(source), spec, root, dimensions)
    cases: list[Case] = [(section, record) for section, records in found.datalist.items() for record in records]
    if not cases and not found.missing:
        msg = f"No case in {str(source)!r} (data spec {name}); expected images, volumes, or a data set's layout."
        raise FileNotFoundError(msg)
    with Report(check_writable("out", out), name, headers_only) as report:
        for finding in _of_the_list(found, Path(source)):
            report.find(*finding)
        step = max(1, -(-len(cases) // _NUM_PICTURES))
        looks = Looks(cases, rules, headers_only, range(0, len(cases), step))
        across = _Across()
        for look in tqdm(_stream(looks, workers), total=len(cases), desc="inspect", unit="case", disable=None):
            across.add(look)
            report.add(look)
        for finding in across.findings():
            report.find(*finding)
    return report


def _of_the_list(found: Found, source: Path) -> Iterator[tuple[str, str, str]]:
    """Yield what the list of files shows, before any is opened."""
    for line in found.missing:
        yield ERROR, "missing file", line
    for path in found.orphans:
        yield WARNING, "label without an image", str(path.relative_to(source))
    for first, second in shared_patients(found.datalist):
        yield ERROR, "patient in two sections", f"{first} and {second} are of one patient"
    if source.is_dir():
        counts = _left_out(found, source)
        if counts:
            listed = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(6))
            yield WARNING, "files not looked at", f"{listed}: no case of the data spec"


def _left_out(found: Found, folder: Path) -> Counter[str]:
    """Return how many images and volumes below the folder belong to no case, by suffix."""
    used: set[str] = {str(path) for path in found.orphans}
    for records in found.datalist.values():
        for record in records:
            used.update((record["image"], *record["label"], *record["exclude"], *record["organ"]))
    counts: Counter[str] = Counter()
    for place, _, names in os.walk(folder):
        if place in used:  # a folder of slices
            continue
        for name in names:
            suffix = suffix_of(name).lower()
            if suffix and not name.startswith(".") and str(Path(place) / name) not in used:
                counts[suffix] += 1
    return counts


def _cases_of(
    source: Path, spec: str, root: str | Path | None, dimensions: int | None
) -> tuple[Found, LabelRules, str]:
    """Return the cases, how their labels are read, and the spec's name."""
    if source.is_file() and source.suffix.lower() == ".json":
        datalist, told = read_datalist(source, None if root is None else Path(root))
        name = told if spec == "auto" else spec
        return Found(datalist), LabelRules() if name is None else _rules(load_spec(name)), name or source.name
    if source.is_file():
        record: dict[str, Any] = {"image": str(source), "label": [], "exclude": [], "organ": []}
        record |= {"case": source.name, "patient": source.name, "group": "unlabeled"}
        return Found({"all": [record]}), LabelRules(), "single file"
    chosen = detect_spec(source, dimensions or _dimensions_of(source)) if spec == "auto" else load_spec(spec)
    if dimensions is not None:
        chosen = {**chosen, "dimensions": dimensions}
    everything = chosen["name"] == PLAIN_LAYOUTS[1]  # there every file is in every section
    found = find_cases({**chosen, "parts": chosen["parts"][:1]} if everything else chosen, source)
    if everything:
        found.datalist = {"all": found.datalist["training"]}
    return found, _rules(chosen), str(chosen["name"])


def _rules(spec: Spec) -> LabelRules:
    told = (spec.get("label_values"), spec.get("lesion_values"), spec.get("mask_polarity", "positive"))
    return LabelRules(*told, spec.get("mat_fields", {}))


def _dimensions_of(folder: Path) -> int:
    """Return 3 where a known layout of volumes fits, or most files are volumes, else 2."""
    if detect_spec(folder, 3)["name"] not in PLAIN_LAYOUTS:
        return 3
    if volumes_of(folder):
        return 3
    counts: Counter[bool] = Counter()
    for _, _, names in os.walk(folder):
        for suffix in (suffix_of(name).lower() for name in names):
            if suffix in IMAGE_SUFFIXES or suffix in VOLUME_SUFFIXES:
                counts[suffix in VOLUME_SUFFIXES] += 1
    return 3 if counts[True] > counts[False] else 2


def _stream(looks: Looks, workers: int) -> Iterator[Look]:
    """Yield the cases in their order; where a file kills its reader, the others go on."""
    start = 0
    while start < len(looks):
        loader: DataLoader[Look] = DataLoader(
            Subset(looks, range(start, len(looks))), _BATCH, num_workers=workers, collate_fn=list
        )
        try:
            for batch in loader:
                start += len(batch)
                yield from batch
        except RuntimeError as error:
            if not workers or "worker" not in str(error):
                raise
            logger.debug("a reader died", exc_info=True)
            stop = min(start + _BATCH, len(looks))
            for index in range(start, stop):
                yield from _alone(looks, index)
            start = stop


def _alone(looks: Looks, index: int) -> Iterator[Look]:
    """Yield one case, read in a process of its own."""
    try:
        yield from next(iter(DataLoader(Subset(looks, [index]), 1, num_workers=1, collate_fn=list)))
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        section, record = looks.cases[index]
        row = {"case": record["case"], "section": section, "group": record["group"]}
        yield Look(row, [(ERROR, "kills its reader", "the process that read it died: out of memory, or a broken file")])


class _Across:
    """What shows only beside other cases: copies, and mixtures of orientation, spacing or type."""

    def __init__(self) -> None:
        self.seen: dict[bytes, tuple[str, str]] = {}
        self.copies: list[tuple[str, str, str]] = []
        self.kinds: dict[str, Counter[str]] = {key: Counter() for key in ("orientation", "spacing", "dtype")}

    def add(self, look: Look) -> None:
        """Take note of a case."""
        here = (look.row["section"], look.row["case"])
        if look.digest:
            before = self.seen.setdefault(look.digest, here)
            if before != here:
                leak = before[0] != here[0]
                kind = "copy in another section" if leak else "copy"
                text = f"{here[1]} ({here[0]}) has the same pixels as {before[1]} ({before[0]})"
                self.copies.append((ERROR if leak else WARNING, kind, text))
        for key, counter in self.kinds.items():
            value = look.row.get(key)
            if value and (value in counter or len(counter) < _MANY):
                counter[value] += 1

    def findings(self) -> Iterator[tuple[str, str, str]]:
        """Yield severity, kind and text."""
        yield from self.copies
        for key, counter in self.kinds.items():
            if len(counter) > 1:
                listed = ", ".join(f"{value} ({count})" for value, count in counter.most_common(4))
                more = f" and {len(counter) - 4} more" if len(counter) > 4 else ""
                yield WARNING, f"mixed {key}", f"{len(counter)} kinds: {listed}{more}"
