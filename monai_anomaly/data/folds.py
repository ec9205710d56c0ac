"""Cross-validation folds that keep patients whole and every kind of lesion about equally common in each."""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import LoadImage
from monai.utils import convert_to_tensor
from tqdm import tqdm

from monai_anomaly.checks import check_range
from monai_anomaly.data.readers import MatVolumeReader
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.keys import FILE_READER

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]


def count_label_pixels(records: Sequence[Record], values: Sequence[int], reader: Any = None) -> dict[str, list[int]]:
    """Return by patient how many pixels of their label files have each value. Label files are read one by one.

    Args:
        records: each with "patient" and "label", a list of files.
        values: to count.
        reader: handed to MONAI's LoadImage; by default `monai_anomaly.data.FileReader`.
    """
    load = LoadImage(reader=reader or FILE_READER, image_only=True)
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(values), dtype=np.int64))
    for record in tqdm(records, desc="count labels", unit="case", disable=None):
        counts[str(record["patient"])] += 0  # those without a label count, too
        for file in record.get("label", ()):
            label = convert_to_tensor(load(file))
            counts[str(record["patient"])] += np.array([int((label == value).sum()) for value in values])
    return {patient: count.tolist() for patient, count in counts.items()}


def balanced_folds(counts: Mapping[str, Sequence[int]], num_folds: int = 5, seed: int = 0) -> dict[str, int]:
    """Return each patient's fold, so that the folds' shares of every class are alike (Kahrs et al. 2025, section II.I).

    Patients are taken in the order of their largest share of a class, and each goes to the fold where the squares of
    the folds' shares grow least, their number of patients being one share more.

    Args:
        counts: pixels of each class, by patient.
        num_folds: at least 2.
        seed: of the order of patients that are alike.

    Raises:
        ValueError: fewer patients than folds.
    """
    check_range("num_folds", num_folds, 2)
    if len(counts) < num_folds:
        msg = f"{num_folds} folds need at least as many patients, got {len(counts)}: give more, or fewer folds."
        raise ValueError(msg)
    patients = sorted(counts)
    random.Random(seed).shuffle(patients)  # noqa: S311 - a split, not a secret
    table = np.array([[*counts[patient], 1] for patient in patients], dtype=float)
    shares = table / np.maximum(table.sum(0), 1)
    sums = np.zeros((num_folds, shares.shape[1]))
    folds = {}
    for index in np.argsort(-shares.max(1), kind="stable"):
        growth = ((sums + shares[index]) ** 2 - sums**2).sum(1)
        best = int(growth.argmin())
        sums[best] += shares[index]
        folds[patients[index]] = best
    return dict(sorted(folds.items()))


def fold_of_lesions(
    records: Sequence[Record],
    fold: int | None,
    file: str | Path,
    values: Sequence[int],
    num_folds: int = 5,
    seed: int = 0,
    *,
    held: bool = False,
) -> list[Any]:
    """Return a balanced fold's training part, or with ``held`` the part held out.

    The folds are read from ``file``, or made by `balanced_folds` and written there the first time.

    Args:
        records: each with "patient" and "label".
        fold: 0 to ``num_folds`` - 1; None returns all records either way, and reads no file.
        file: JSON of the folds.
        values: classes to balance, values of the label files.
        num_folds: at least 2.
        seed: see `balanced_folds`.
        held: which part to return.

    Raises:
        ValueError: fold out of range, fewer patients than folds, or a file of other folds or patients.
    """
    if fold is None:
        return list(records)
    check_range("fold", fold, 0, num_folds - 1)
    path = Path(file)
    if not path.is_file():
        counts = count_label_pixels(records, values)
        folds = balanced_folds(counts, num_folds, seed)
        _warn_of_lacking(counts, folds, values, num_folds)
        made = {"num_folds": num_folds, "seed": seed, "values": list(values), "folds": folds}
        write_atomically(path, lambda part: part.write_text(json.dumps(made, indent=4) + "\n", encoding="utf-8"))
        logger.info("%d patients in %d folds: %s", len(folds), num_folds, path)
    told = json.loads(path.read_text(encoding="utf-8"))
    if (told["seed"], told["values"]) != (seed, list(values)):
        msg = (
            f"{path} was made with seed {told['seed']} for labels {told['values']}, expected {seed}, {list(values)}; "
            f"delete it, or pass another --folds_file."
        )
        raise ValueError(msg)
    patients = {str(record["patient"]) for record in records}
    chosen = told["folds"]
    short = {patient.rpartition("/")[2]: patient for patient in patients}
    if set(chosen) == set(short) and len(short) == len(patients):  # files made before patients had their whole path
        chosen = {short[name]: number for name, number in chosen.items()}
    if told["num_folds"] != num_folds or set(chosen) != patients:
        other = next(iter(set(chosen) ^ patients), None)
        msg = (
            f"{path} has {told['num_folds']} folds of {len(chosen)} patients, expected {num_folds} of {len(patients)}"
            f"{f' ({other} is in one of them alone)' if other else ''}; delete it, or pass another --folds_file."
        )
        raise ValueError(msg)
    return [record for record in records if (chosen[str(record["patient"])] == fold) == held]


def _warn_of_lacking(
    counts: Mapping[str, Sequence[int]], folds: Mapping[str, int], values: Sequence[int], num_folds: int
) -> None:
    for number, value in enumerate(values):
        there = {folds[patient] for patient, count in counts.items() if count[number]}
        lacking = sorted(set(range(num_folds)) - there)
        if lacking:
            listed = ", ".join(map(str, lacking))
            logger.warning("Fold %s has no pixel of label %d: its figures for it will be NaN.", listed, value)


def with_folds(
    datalist: Mapping[str, Sequence[Record]], spec: Mapping[str, Any], num_folds: int, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Return a datalist whose training records have a "fold", as MONAI's Decathlon lists do.

    Patients stay whole; their numbers, and the pixels of each lesion value in their labels, are alike in all folds.

    Args:
        datalist: sections of records.
        spec: of the data set, for the values its labels may hold.
        num_folds: at least 2.
        seed: see `balanced_folds`.

    Raises:
        ValueError: fewer patients than folds.
    """
    records = datalist["training"]
    fields = spec.get("mat_fields", {})
    reader = MatVolumeReader(fields["label"], True, fields.get("labeled_by")) if fields else None
    values = spec.get("lesion_values", spec.get("label_values", [0, 1, 255])[1:])
    folds = balanced_folds(count_label_pixels(records, values, reader), num_folds, seed)
    numbered = [{**record, "fold": folds[str(record["patient"])]} for record in records]
    return {**{section: [dict(r) for r in rows] for section, rows in datalist.items()}, "training": numbered}
