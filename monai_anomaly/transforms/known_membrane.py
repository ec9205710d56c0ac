"""Bruch's membrane as a file brings it, and rows of it without gaps."""

from __future__ import annotations

import logging

import numpy as np
import torch
from monai.utils import TraceKeys, convert_to_tensor
from torch import Tensor

from monai_anomaly.keys import LAYERS

logger = logging.getLogger(__name__)


def known_membrane(image: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Return the rows of Bruch's membrane that came with a file, as long as nothing but axes were turned since.

    Args:
        image: with metadata; without any, or without the membrane in them, the answer is None.
        shape: of the image's A-scans and B-scans, which the rows must have.
    """
    rows = getattr(image, "meta", {}).get(LAYERS, {}).get("BM")
    done = {one[TraceKeys.CLASS_NAME] for one in getattr(image, "applied_operations", ())}
    moved = done - {"DepthFirstd", "Transposed"}
    if rows is None or moved or len(shape) != 2 or tuple(rows.shape) != shape or not np.isfinite(rows).any():
        return None
    return convert_to_tensor(rows)


def without_gaps(rows: Tensor) -> Tensor:
    """Return the rows without NaN: A-scans between the known ones of a B-scan, whole B-scans from the nearest known.

    Args:
        rows: (A-scans,) or (A-scans, B-scans), NaN where nothing is known.

    Raises:
        ValueError: nothing is known anywhere.
    """
    columns = rows.reshape(len(rows), -1).clone()
    finite = torch.isfinite(columns)
    for scan in torch.nonzero(finite.any(0) & ~finite.all(0)).flatten().tolist():
        at, there = np.flatnonzero(finite[:, scan].cpu()), columns[finite[:, scan], scan].cpu().numpy()
        columns[:, scan] = torch.from_numpy(np.interp(np.arange(len(rows)), at, there))
    known = finite.any(0)
    if not bool(known.any()):
        msg = (
            "No Bruch's membrane is seen in any B-scan; expected a bright band across. Check depth_axis, or give its "
            "rows (membrane)."
        )
        raise ValueError(msg)
    if not bool(known.all()):
        missing = int((~known).sum())
        logger.warning("%d of %d B-scans show no Bruch's membrane: they take the next ones' rows.", missing, len(known))
        places = torch.arange(len(known), device=rows.device)
        nearest = (places[:, None] - places[known]).abs().argmin(1)
        columns = columns[:, known][:, nearest]
    return columns.reshape(rows.shape)
