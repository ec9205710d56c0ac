"""Maps of several detectors on disk, judged on the same cases: one table, curves, and the maps side by side."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose, LoadImaged
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_anomaly.data.datalist import label_rules, load_datalist
from monai_anomaly.data.file_reader import FileReader
from monai_anomaly.data.readers import ImageFileReader
from monai_anomaly.data.writers import write_atomically
from monai_anomaly.evaluation.figures import rows_run_up, save_side_by_side
from monai_anomaly.evaluation.map_evaluation import Case, MapEvaluation, Protocol
from monai_anomaly.evaluation.report import image_rows, markdown_table, write_csv, write_curves
from monai_anomaly.keys import CASE
from monai_anomaly.transforms.content_mask import content_mask
from monai_anomaly.transforms.lesion_mask import LoadLesionMaskd
from monai_anomaly.transforms.retina_mask import retina_mask

Row = dict[str, Any]


class Judge:
    """Judge detectors' maps of the section "test" against the untouched labels, every pixel, each slice an image.

    Args:
        dataset_dir: the data.
        dimensions: of its files.
        organ: "oct" looks for the retina, for the trivial row of darkness in it; None for what is not background.
        seed: of the random row and the intervals.
        slice_axis: of volumes.
    """

    def __init__(
        self, dataset_dir: Path, dimensions: int, organ: str | None = None, seed: int = 0, slice_axis: int = 2
    ) -> None:
        self.records = load_datalist(str(dataset_dir), "test", "auto", dimensions)
        rules = label_rules(str(dataset_dir), "auto", dimensions)
        reader = ImageFileReader if dimensions == 2 else FileReader
        masks = {"values": rules["values"], "polarity": rules["polarity"], "reader": reader}
        self.load = Compose(
            [
                LoadImaged("image", reader=reader, ensure_channel_first=True),
                LoadLesionMaskd("label", lesions=rules["lesions"], **masks),
                LoadLesionMaskd("exclude", polarity=rules["polarity"], reader=reader),
            ]
        )
        self.load_map = LoadImaged("map", reader=reader, ensure_channel_first=True)
        self.dimensions, self.organ, self.seed, self.slice_axis = dimensions, organ, seed, slice_axis

    def rows(self, detectors: Mapping[str, tuple[Path, Mapping[str, float]]], root: Path, name: str) -> list[Row]:
        """Return the table's rows: the detectors, then the trivial methods, on the cases that all detectors have.

        Args:
            detectors: folder of maps and costs, by title.
            root: where curves and pictures go.
            name: of the data in the table and of the files.

        Raises:
            FileNotFoundError: no case has a map of every detector.
        """
        scores = {title: _scores(folder) for title, (folder, _) in detectors.items()}
        shared = [one for one in self.records if all(one[CASE] in found for found in scores.values())]
        if not shared:
            msg = f"No case of {name} has a map of each of {', '.join(detectors)}; see failures.csv beside the maps."
            raise FileNotFoundError(msg)
        evaluations = {title: MapEvaluation(Protocol("all"), title, self.seed, by_slice=True) for title in detectors}
        drawn = 0
        for record in shared:
            item = self.load(dict(record))
            maps = {}
            for title, (folder, _) in detectors.items():
                maps[title] = convert_to_tensor(self.load_map({"map": str(_map_file(folder, record[CASE]))})["map"])
                evaluations[title].add(self._case(item, maps[title].float(), scores[title][record[CASE]]))
            if drawn < 3 and bool((item["label"] > 0).any()):
                drawn += 1
                case = self._case(item, next(iter(maps.values())), 0.0)
                save_side_by_side(root / name / f"{Path(record[CASE]).name}.png", case, maps)
        counts = {title: sum(map(len, found.values())) for title, found in scores.items()}  # also of cases not shared
        costs = {title: {**costs, "images": counts[title]} for title, (_, costs) in detectors.items()}
        return self._table(evaluations, costs, root, name)

    def _case(self, item: Mapping[str, Any], anomaly_map: Tensor, score: Any) -> Case:
        image = convert_to_tensor(item["image"]).float()
        content = retina_mask(image, depth_axis=1) if self.organ == "oct" else content_mask(image)
        return Case(
            name=item[CASE],
            group=item.get("group", "unlabeled"),
            image=image,
            anomaly_map=anomaly_map,
            score=score,
            label=convert_to_tensor(item["label"]),
            exclude=convert_to_tensor(item["exclude"]),
            slice_axis=self.slice_axis,
            flip=self.dimensions == 3 and rows_run_up(item["image"].affine, self.slice_axis),
            content=content,
        )

    def _table(
        self, evaluations: Mapping[str, MapEvaluation], costs: Mapping[str, Mapping[str, float]], root: Path, name: str
    ) -> list[Row]:
        first = next(iter(evaluations.values()))
        rows = [self._rows_of(one, [title], costs[title], name)[0] for title, one in evaluations.items()]
        trivial = self._rows_of(first, [method for method in first.pixels if method != first.method], {}, name)
        best = max(trivial, key=lambda row: row["pixel_aupr"])["method"]
        curves = {title: one.curves()[title] for title, one in evaluations.items()} | {best: first.curves()[best]}
        write_curves(root / name / "curves.png", curves)
        return [*rows, *trivial]

    def _rows_of(
        self, evaluation: MapEvaluation, methods: Sequence[str], costs: Mapping[str, float], name: str
    ) -> list[Row]:
        pixels = {row["method"]: row for row in evaluation.pooled_rows()}
        images = {row["method"]: row for row in image_rows(evaluation, self.seed)}
        count = len(evaluation.image_labels)
        return [_row(name, method, pixels[method], images.get(method, {}), costs, count) for method in methods]


def _row(data: str, method: str, pixels: Row, images: Row, costs: Mapping[str, float], count: int) -> Row:
    nothing = float("nan")
    return {
        "data": data,
        "method": method,
        "kind": "detector" if costs else "trivial",
        **{key: images.get(key, nothing) for key in ("image_auroc", "ci_low", "ci_high")},
        **{key: pixels[key] for key in ("pixel_auroc", "pixel_aupr", "best_dice")},
        "seconds_per_image": costs.get("map_seconds", nothing) / costs.get("images", 1),
        **{key: costs.get(key, nothing) for key in ("train_seconds", "parameters", "train_gb", "map_gb")},
        "images": count,
    }


def _scores(folder: Path) -> dict[str, list[float]]:
    """Return each case's score, or the scores of its slices."""
    scores: dict[str, list[float]] = {}
    for file in ("slice_scores.csv", "scores.csv"):
        new: dict[str, list[float]] = {}
        for row in _read(folder / file):
            new.setdefault(row["case"], []).append(float(row["anomaly_score"]))
        scores = {**new, **scores}
    return scores


def _read(file: Path) -> Iterator[dict[str, str]]:
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as handle:
            yield from csv.DictReader(handle)


def _map_file(folder: Path, case: str) -> Path:
    place = (folder / case).parent
    found = next((path for path in place.glob("*") if path.name.startswith(f"{Path(case).name}_anomaly_map.")), None)
    if found is None:
        msg = f"{folder} tells a score of {case}, but has no {case}_anomaly_map; make the maps again."
        raise FileNotFoundError(msg)
    return found


def write_detectors(folder: Path, rows: Sequence[Row], failures: Sequence[tuple[str, str]], settings: str) -> Path:
    """Write ``detectors.csv`` and ``report.md`` and return the latter's path.

    Args:
        folder: to write to, which holds what `Judge` drew.
        rows: of `Judge.rows`.
        failures: what and why.
        settings: told in the last line.
    """
    lines = [
        "# Detectors",
        "",
        "Maps are as the detectors give them, not calibrated.",
        "Every pixel counts, pooled over the cases; each slice of a volume is an image. Intervals",
    ]
    lines += [
        "draw whole cases. Dice is at the threshold that makes it largest on these very labels. Seconds per image"
    ]
    lines += ["are from file to file. Memory is a process's peak, of which Python and torch take about 0.5 GB.", ""]
    if rows:
        write_csv(folder / "detectors.csv", rows)
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [f"## {data}", "", *markdown_table([_shown(row) for row in rows if row["data"] == data]), ""]
        pictures = sorted((folder / data).glob("*.png"), key=lambda file: (file.name != "curves.png", file.name))
        lines += [f"![{file.stem}]({data}/{file.name})" for file in pictures] + [""]
    lines += [f"- Failed: {what}: {why}" for what, why in failures]
    lines += ["", f"Settings: {settings}", ""]
    text = "\n".join(lines)
    return write_atomically(folder / "report.md", lambda path: path.write_text(text, encoding="utf-8"))


def _shown(row: Row) -> Row:
    interval = "–" if row["image_auroc"] != row["image_auroc"] else f"{row['image_auroc']:.3f}"
    if row["ci_low"] == row["ci_low"]:
        interval += f" ({row['ci_low']:.2f}-{row['ci_high']:.2f})"
    cells = {"method": row["method"] if row["kind"] == "detector" else f"*{row['method']}*", "image AUROC": interval}
    cells |= {title: f"{row[key]:.3f}" for title, key in _FIGURES.items()}
    is_detector = row["kind"] == "detector"
    cells |= {title: write(row[key]) if is_detector else "" for title, (key, write) in _COSTS.items()}
    return cells


_FIGURES = {"pixel AUROC": "pixel_auroc", "pixel AUPR": "pixel_aupr", "Dice": "best_dice"}
_COSTS = {
    "s / image": ("seconds_per_image", "{:.3f}".format),
    "training, s": ("train_seconds", "{:.0f}".format),
    "parameters": ("parameters", "{:,.0f}".format),
    "GB, training": ("train_gb", "{:.1f}".format),
    "GB, maps": ("map_gb", "{:.1f}".format),
}
