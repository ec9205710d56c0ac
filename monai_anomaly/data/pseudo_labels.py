"""Labels that a method made, found by the cases they are of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_anomaly.checks import check_directory
from monai_anomaly.keys import CASE

logger = logging.getLogger(__name__)


def with_pseudo_labels(
    records: Sequence[Mapping[str, Any]], labels_dir: str | Path | None, suffix: str = "_pseudo_label.png"
) -> list[dict[str, Any]]:
    """Return the records that have a pseudo label, each with its file under "label".

    Args:
        records: each with "case".
        labels_dir: holds ``<case><suffix>``, as ``pseudo_labels.yaml`` writes them.
        suffix: of the files, after the case's name.

    Raises:
        FileNotFoundError: no such folder, or no label of any case in it.
    """
    if labels_dir is None:
        msg = "Training needs pseudo labels; pass their folder (--labels_dir DIR), made with pseudo_labels.yaml."
        raise FileNotFoundError(msg)
    folder = check_directory("labels_dir", labels_dir)
    files = [(record, folder / f"{record[CASE]}{suffix}") for record in records]
    found = [{**record, "label": [str(file)]} for record, file in files if file.is_file()]
    if 0 < len(found) < len(records):
        logger.warning("%d of %d cases have no pseudo label and are left out", len(records) - len(found), len(records))
    if not found:
        msg = (
            f"None of the {len(records)} cases has a pseudo label in {str(folder)!r} (<case>{suffix}); make them with "
            f"pseudo_labels.yaml from the same --dataset_dir."
        )
        raise FileNotFoundError(msg)
    return found
