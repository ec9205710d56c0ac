"""Anomaly maps on disk, found by the cases they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_anomaly.checks import check_directory
from monai_anomaly.keys import ANOMALY_MAP, CASE


def with_maps(
    records: Sequence[Mapping[str, Any]], maps_dir: str | Path | None, guide: str | None = None, needed: bool = True
) -> list[dict[str, Any]]:
    """Return the records, each with the file of its map under "anomaly_map".

    Args:
        records: each with "case".
        maps_dir: holds ``<guide>/<case>_anomaly_map.nii.gz``, as ``anomaly_maps.yaml`` writes them.
        guide: folder below ``maps_dir``; None for the maps in it.
        needed: False returns the records as they are.

    Raises:
        FileNotFoundError: no such folder, or cases without a map; all of them are counted, the first ones listed.
    """
    if not needed:
        return [dict(record) for record in records]
    if maps_dir is None:
        msg = "This guidance needs anomaly maps; pass their folder (--maps_dir MAPS), made with anomaly_maps.yaml."
        raise FileNotFoundError(msg)
    folder = check_directory("maps_dir", maps_dir) / (guide or "")
    files = {record[CASE]: folder / f"{record[CASE]}_anomaly_map.nii.gz" for record in records}
    missing = [case for case, file in files.items() if not file.is_file()]
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        msg = (
            f"{len(missing)} of {len(records)} cases have no map in {str(folder)!r} (<case>_anomaly_map.nii.gz): "
            f"{shown}; make them with anomaly_maps.yaml, or pass another --maps_dir or --guide."
        )
        raise FileNotFoundError(msg)
    return [{**record, ANOMALY_MAP: str(files[record[CASE]])} for record in records]
