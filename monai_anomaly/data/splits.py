"""Splits that keep every patient whole."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from monai_anomaly.checks import check_range


def split_by_patient(
    records: Sequence[Mapping[str, Any]], fraction: float, seed: int = 0
) -> tuple[list[Any], list[Any]]:
    """Split records so that a fraction of the patients, at least one, is in the second part, and none is in both.

    Args:
        records: each with "patient".
        fraction: of the patients, in (0, 1).
        seed: of the draw; the same records and seed give the same split.

    Raises:
        ValueError: fraction outside (0, 1), or fewer than two patients.
    """
    check_range("fraction", fraction, 0, 1, low_open=True)
    patients = sorted({str(record["patient"]) for record in records})
    if len(patients) < 2:
        msg = f"A split needs at least two patients, got {len(patients)}: give more cases, or separate folders."
        raise ValueError(msg)
    count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
    chosen = set(random.Random(seed).sample(patients, count))  # noqa: S311 - a split, not a secret
    first = [record for record in records if str(record["patient"]) not in chosen]
    return first, [record for record in records if str(record["patient"]) in chosen]


def hold_out(records: Sequence[Any], fraction: float, seed: int = 0, *, held: bool = False) -> list[Any]:
    """Return the records left for fitting, or with ``held`` those held out for calibration.

    Args:
        records: healthy cases.
        fraction: of the patients to hold out, in [0, 1); 0 holds nothing out and calibrates on the fitted cases.
        seed: of the draw.
        held: which part to return.

    Raises:
        ValueError: fraction outside [0, 1), or fewer than two patients to split.
    """
    check_range("calibration_fraction", fraction, 0, 0.99)
    if fraction == 0:
        return list(records)
    return split_by_patient(records, fraction, seed)[int(held)]


def fold_of(
    records: Sequence[Mapping[str, Any]], fold: int | None, num_folds: int = 2, seed: int = 0, *, held: bool = False
) -> list[Any]:
    """Return the training part of a cross-validation fold, or with ``held`` the part held out, patient by patient.

    Args:
        records: each with "patient".
        fold: 0 to ``num_folds`` - 1; None returns all records either way.
        num_folds: at least 2.
        seed: of the assignment; the folds of one seed part the patients among them.
        held: which part to return.

    Raises:
        ValueError: fold or num_folds out of range, or fewer patients than folds.
    """
    if fold is None:
        return list(records)
    check_range("num_folds", num_folds, 2)
    check_range("fold", fold, 0, num_folds - 1)
    patients = sorted({str(record["patient"]) for record in records})
    if len(patients) < num_folds:
        msg = f"{num_folds} folds need at least as many patients, got {len(patients)}: give more, or fewer folds."
        raise ValueError(msg)
    random.Random(seed).shuffle(patients)  # noqa: S311 - a split, not a secret
    chosen = set(patients[fold::num_folds])
    return [record for record in records if (str(record["patient"]) in chosen) == held]


def with_labels(records: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the records, where there is anything to judge by.

    Args:
        records: each with "label", a list of files; some may be empty, of healthy cases.

    Raises:
        ValueError: none of them has a label.
    """
    if not any(record.get("label") for record in records):
        msg = (
            f"None of the {len(records)} cases has a label to be judged by; choose another section "
            f"(--section training), or a fold of it (--fold 0)."
        )
        raise ValueError(msg)
    return list(records)
