"""One protocol: which pixels count, for the detector and the trivial methods alike."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_anomaly.checks import check_option, check_same_grid
from monai_anomaly.evaluation.baselines import trivial_maps
from monai_anomaly.evaluation.bootstrap import bootstrap_interval
from monai_anomaly.metrics.curves import Curve, average_precision, balanced_accuracy, best_dice, roc_auc
from monai_anomaly.metrics.per_region_overlap import PerRegionOverlapMetric
from monai_anomaly.metrics.score_distribution import LabeledScores
from monai_anomaly.transforms.content_mask import content_mask
from monai_anomaly.transforms.field_of_view_mask import field_of_view_mask
from monai_anomaly.transforms.resize_images import resize_images


@dataclass
class Case:
    """What is known of one case, arrays (C, ...) on the grid of the input file; ``flip`` as pictures need it.

    ``score`` is the case's, or has one for each slice. ``grade`` says how severe the disease is, None where the data
    set does not. ``content`` is above 0 where the detector looked, in the organ, where that is less than the image's
    own content.
    """

    name: str
    group: str
    image: Tensor
    anomaly_map: Tensor
    score: float | Sequence[float]
    label: Tensor
    exclude: Tensor
    slice_axis: int = 2
    flip: bool = False
    content: Tensor | None = None
    grade: int | None = None

    @property
    def scores(self) -> list[float]:
        """The case's score, or its slices', as a list."""
        return list(self.score) if isinstance(self.score, Sequence) else [self.score]


@dataclass(frozen=True)
class Protocol:
    """Which pixels count.

    Args:
        name: in the tables.
        region: "all" pixels, the photograph's "field_of_view", or the "content" of a volume, above its background.
        size: images are resized to this height and width first, labels by nearest neighbor; None for the file's own.
        excluded: leave the excluded structures (the optic disc) out.

    Raises:
        ValueError: unknown region.
    """

    name: str
    region: str = "all"
    size: tuple[int, int] | None = None
    excluded: bool = False

    def __post_init__(self) -> None:
        check_option("region", self.region, ("all", "field_of_view", "content"))

    def mask(self, image: Tensor, exclude: Tensor, content: Tensor | None = None) -> Tensor:
        """Return where pixels count, (1, ...) bool."""
        if self.region == "field_of_view":
            mask = field_of_view_mask(image)
        elif self.region == "content":
            mask = content_mask(image) if content is None else content > 0
        else:
            mask = torch.ones_like(exclude, dtype=torch.bool)
        return mask & (exclude == 0) if self.excluded else mask

    def resize(self, array: Tensor, *, nearest: bool = False) -> Tensor:
        """Return a 2-D array (C, H, W) at the protocol's size; volumes stay as they are."""
        if self.size is None or array.ndim != 3:
            return array
        return resize_images(array[None] if nearest else array[None].float(), self.size, nearest=nearest)[0]


class MapEvaluation:
    """Scores of all cases by one protocol, pooled per method, and one row per case.

    Args:
        protocol: which pixels count.
        method: the detector's name.
        seed: of the random map.
        by_slice: a volume's slices are the images that scores are judged on, lesioned where the label says so.
    """

    COLUMNS = ("pixel_auroc", "pixel_aupr", "best_dice")

    def __init__(self, protocol: Protocol, method: str, seed: int = 0, *, by_slice: bool = False) -> None:
        self.protocol = protocol
        self.method = method
        self.seed = seed
        self.by_slice = by_slice
        self.pixels: dict[str, LabeledScores] = {}
        self.overlap = PerRegionOverlapMetric()
        self.image_scores: dict[str, list[float]] = {}
        self.image_labels: list[bool] = []
        self.image_cases: list[int] = []
        self.grades: list[int | None] = []
        self.rows: list[dict[str, Any]] = []

    def add(self, case: Case) -> None:
        """Count a case.

        Raises:
            ValueError: map, label or image are not on one grid.
        """
        check_same_grid("The anomaly map", case.label, case.anomaly_map, expected="the label")
        check_same_grid("The label", case.image, case.label)
        image = self.protocol.resize(case.image)
        label = self.protocol.resize(case.label, nearest=True) > 0
        content = None if case.content is None else self.protocol.resize(case.content, nearest=True)
        mask = self.protocol.mask(image, self.protocol.resize(case.exclude, nearest=True), content)
        lesioned = [bool((part > 0).any()) for part in self._images(case.label, case.slice_axis)]
        if len(lesioned) == 1:
            lesioned = [case.group == "abnormal" or (case.group != "normal" and lesioned[0])]
        self.image_labels += lesioned
        self.image_cases += [len(self.rows)] * len(lesioned)
        self.grades += [case.grade] * len(lesioned)
        anomaly_map = self.protocol.resize(case.anomaly_map)
        own = LabeledScores()
        own.update(anomaly_map, label, mask)
        curve = Curve.of(own)
        if len(case.scores) not in (1, len(lesioned)):
            msg = f"{case.name} has {len(case.scores)} scores for {len(lesioned)} images; give one, or one for each."
            raise ValueError(msg)
        judged = case.scores if len(case.scores) == len(lesioned) else None
        self._pool(self.method, anomaly_map, label, mask, case.slice_axis, judged)
        self.overlap(anomaly_map[None], label[None], mask[None])
        self.rows.append(
            {
                "case": case.name,
                "group": case.group,
                "anomaly_score": max(case.scores),
                "num_pixels": int(mask.sum()),
                "num_lesion_pixels": int((label & mask).sum()),
                "pixel_auroc": roc_auc(curve),
                "pixel_aupr": average_precision(curve),
                "best_dice": best_dice(curve)[0],
            }
        )
        seed = (self.seed + zlib.crc32(case.name.encode())) % 2**32  # the same in whichever order cases come
        for name, trivial in trivial_maps(image, case.slice_axis, seed, content):
            self._pool(name, trivial, label, mask, case.slice_axis)
        masks = self._images(mask, case.slice_axis)
        for channel, plane in enumerate(image.float()):
            planes = zip(self._images(plane[None], case.slice_axis), masks, strict=True)
            means = [float(part[inside].mean()) if bool(inside.any()) else 0.0 for part, inside in planes]
            self.image_scores.setdefault(f"mean of channel {channel}", []).extend(means)

    def merge(self, other: MapEvaluation) -> None:
        """Add the cases that another one of the same protocol has counted, behind one's own."""
        for name, scores in other.pixels.items():
            self.pixels.setdefault(name, LabeledScores()).merge(scores)
        for name, judged in other.image_scores.items():
            self.image_scores.setdefault(name, []).extend(judged)
        self.overlap.merge(other.overlap)
        self.image_labels += other.image_labels
        self.image_cases += [len(self.rows) + number for number in other.image_cases]
        self.grades += other.grades
        self.rows += other.rows

    def _images(self, array: Tensor, slice_axis: int) -> list[Tensor]:
        """Return what scores are judged on: the slices of a volume, or the whole case."""
        return list(array.movedim(slice_axis + 1, 0)) if self.by_slice and array.ndim == 4 else [array]

    def _pool(
        self,
        name: str,
        scores: Tensor,
        label: Tensor,
        mask: Tensor,
        slice_axis: int,
        judged: Sequence[float] | None = None,
    ) -> None:
        self.pixels.setdefault(name, LabeledScores()).update(scores, label, mask)
        if judged is None:
            images = zip(self._images(scores, slice_axis), self._images(mask, slice_axis), strict=True)
            judged = [float(part[inside].max()) if bool(inside.any()) else 0.0 for part, inside in images]
        self.image_scores.setdefault(name, []).extend(judged)

    def curves(self) -> dict[str, Curve]:
        """Return each method's pooled curve."""
        return {name: Curve.of(scores) for name, scores in self.pixels.items()}

    def pooled_rows(self) -> list[dict[str, Any]]:
        """Return one row per method: pixel metrics of all cases pooled."""
        rows = []
        for name, curve in self.curves().items():
            dice, threshold = best_dice(curve)
            rows.append(
                {
                    "method": name,
                    "pixel_auroc": roc_auc(curve),
                    "pixel_aupr": average_precision(curve),
                    "balanced_accuracy": balanced_accuracy(curve)[0],
                    "best_dice": dice,
                    "best_dice_threshold": threshold,
                    "region_overlap": self.overlap.aggregate() if name == self.method else float("nan"),
                }
            )
        return rows

    def image_rows(self) -> list[tuple[str, np.ndarray]]:
        """Return per method the cases' scores and labels, (N, 2); empty where all cases are of one kind."""
        labels = np.array(self.image_labels, dtype=float)
        if labels.min() == labels.max():
            return []
        return [(name, np.stack((scores, labels), 1)) for name, scores in self.image_scores.items()]

    def grade_rows(self) -> list[dict[str, Any]]:
        """Return per method the AUROC of healthy images against each grade, and against all; empty without grades."""
        grades = sorted({grade for grade in self.grades if grade})
        healthy = ~np.array(self.image_labels, dtype=bool)
        if not grades or not healthy.any():
            return []
        rows = []
        for name, scores in self.image_scores.items():
            pairs = np.stack((scores, ~healthy), 1).astype(float)
            chosen = {f"0 vs {grade}": healthy | (np.array(self.grades) == grade) for grade in grades}
            chosen["0 vs all"] = np.ones_like(healthy)
            rows.append({"method": name, **{key: roc_auc(image_curve(pairs[part])) for key, part in chosen.items()}})
        return rows


def image_interval(pairs: np.ndarray, cases: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """Return the interval of the AUROC of image scores and labels, (N, 2), drawing cases with all their slices."""
    groups = [pairs[np.array(cases) == case] for case in dict.fromkeys(cases)]

    def area(drawn: np.ndarray) -> float:
        return roc_auc(image_curve(np.concatenate([groups[index] for index in drawn])))

    return bootstrap_interval(np.arange(len(groups)), area, num_draws=500, seed=seed)


def image_curve(pairs: np.ndarray) -> Curve:
    """Return the curve of image scores and labels, (N, 2)."""
    scores = LabeledScores()
    scores.update(torch.from_numpy(pairs[:, 0].copy()), torch.from_numpy(pairs[:, 1].copy()))
    return Curve.of(scores)
