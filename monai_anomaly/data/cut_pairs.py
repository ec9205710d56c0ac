"""Images to cut beside images of the reference distribution."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose, SelectItemsd
from torch import Tensor
from torch.utils.data import Dataset

from monai_anomaly.checks import check_range
from monai_anomaly.data.cases import CaseDataset
from monai_anomaly.data.datalist import label_rules, load_datalist
from monai_anomaly.data.slices import SliceDataset
from monai_anomaly.data.splits import split_by_patient
from monai_anomaly.transforms.lesion_mask import LoadLesionMaskd

logger = logging.getLogger(__name__)


class CutPairs(Dataset):
    """Pairs of an image to cut, I_in, and one of the reference distribution R_d (Dey et al. 2022, section 4).

    The lesion-free slices are the reference, the others are cut; slices of unlabeled volumes are all cut. The smaller
    set is topped up by repeating slices drawn at random, so that both are equally large.

    Args:
        slices: with their kinds.
        reference: another data set's slices, whose lesion-free ones are the reference instead.
        max_slices: drawn at random from either set, None for all (MS-SEG: 2,870).
        seed: of the draws.

    Raises:
        ValueError: max_slices < 1, no lesion-free slice, or none to cut.
    """

    def __init__(
        self, slices: SliceDataset, reference: SliceDataset | None = None, max_slices: int | None = None, seed: int = 0
    ) -> None:
        if max_slices is not None:
            check_range("max_slices", max_slices, 1)
        self.slices, self.reference = slices, slices if reference is None else reference
        inputs = [i for i, kind in enumerate(slices.kinds) if kind in {"abnormal", "unlabeled"}]
        healthy = [i for i, kind in enumerate(self.reference.kinds) if kind == "healthy"]
        if not healthy:
            msg = (
                f"No lesion-free slice among {len(self.reference)} for the reference distribution; give healthy "
                f"volumes, or another data set's (reference_dir)."
            )
            raise ValueError(msg)
        if not inputs:
            msg = (
                f"No slice to cut among {len(slices)}: all are of labeled volumes and lesion-free. Give volumes with "
                f"lesions or without labels (input_sections, unlabeled_fraction)."
            )
            raise ValueError(msg)
        rng = random.Random(seed)  # noqa: S311 - a draw, not a secret
        self.num_inputs, self.num_reference = (min(len(part), max_slices or len(part)) for part in (inputs, healthy))
        inputs, healthy = rng.sample(inputs, self.num_inputs), rng.sample(healthy, self.num_reference)
        size = max(len(inputs), len(healthy))
        self.input_index = inputs + rng.choices(inputs, k=size - len(inputs))
        self.reference_index = healthy + rng.choices(healthy, k=size - len(healthy))
        self.failures = [*slices.failures, *([] if reference is None else reference.failures)]
        logger.info("%d slices to cut, %d of the reference, topped up to %d", self.num_inputs, self.num_reference, size)

    def __len__(self) -> int:
        return len(self.input_index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.slices[self.input_index[index]]["image"],
            "reference": self.reference[self.reference_index[index]]["image"],
        }


def load_sections(
    root: str | Path, sections: Sequence[str] | None = None, spec: str = "auto", dimensions: int = 3
) -> list[dict[str, Any]]:
    """Return the cases of several sections, those of all but "training" without their labels.

    Args:
        root: the data set's folder.
        sections: None for "training", and "test" where all training cases are healthy: nothing else could be cut.
        spec: see `load_datalist`, as the errors.
        dimensions: 2 or 3.
    """
    if sections is None:
        records = load_datalist(root, "training", spec, dimensions)
        if any(record["group"] != "normal" or record["label"] for record in records):
            return records
        logger.info("all training volumes are healthy: the test volumes are cut, their labels unseen")
        return [*records, *hide_labels(load_datalist(root, "test", spec, dimensions), 1)]
    return [
        record
        for section in sections
        for record in hide_labels(load_datalist(root, section, spec, dimensions), int(section != "training"))
    ]


def reference_slices(
    root: str | Path | None,
    preprocessing: Callable[[Any], Any],
    slice_axis: int | Callable[[Tensor], int] = 2,
    image_size: Sequence[int] | None = None,
    min_content_fraction: float = 0.1,
    cache_dir: str | Path | None = None,
) -> SliceDataset | None:
    """Return the lesion-free training slices of another data set, for the reference distribution.

    Args:
        root: its folder, None for no other data set.
        preprocessing: transform of its records.
        slice_axis: see `SliceDataset`, as the others.
        image_size: of the slices.
        min_content_fraction: of the slices kept.
        cache_dir: where the slices go.
    """
    if root is None:
        return None
    rules = label_rules(root, dimensions=3)
    load = LoadLesionMaskd("label", values=rules["values"], lesions=rules["lesions"], polarity=rules["polarity"])
    select = SelectItemsd(["image", "label", "case", "group"])
    volumes = CaseDataset(load_datalist(root, "training", dimensions=3), Compose([preprocessing, load, select]))
    return SliceDataset(
        volumes, slice_axis, "healthy", image_size, min_content_fraction, cache="slices", cache_dir=cache_dir
    )


def hide_labels(records: Sequence[Mapping[str, Any]], fraction: float, seed: int = 0) -> list[dict[str, Any]]:
    """Return the records with a fraction of the patients made unlabeled, so that all their slices are cut.

    Dey et al. 2022, section 4.2: of a training fold 90 % give their tumor-free slices to the reference and the others
    to be cut, 10 % give all to be cut.

    Args:
        records: each with "patient".
        fraction: of the patients, in [0, 1]; 1 hides all labels.
        seed: of the draw.

    Raises:
        ValueError: fraction outside [0, 1], or fewer than two patients to choose from.
    """
    check_range("fraction", fraction, 0, 1)
    hidden = [] if fraction == 0 else records if fraction == 1 else split_by_patient(records, fraction, seed)[1]
    patients = {str(record["patient"]) for record in hidden}
    return [
        {**record, "label": [], "group": "unlabeled"} if str(record["patient"]) in patients else dict(record)
        for record in records
    ]
