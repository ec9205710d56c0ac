"""The four guides on real B-scans: trained on phantoms and healthy scans, judged on other healthy and on sick ones.

``python benchmarks/oct2017.py --images OCT2017/train --out OUT``, with the folders NORMAL, CNV, DME and DRUSEN of
Kermany et al. 2018. Two folds; scans that look alike, as neighbors of one eye do, stay together and are drawn together
for the intervals. White fill is painted dark. An hour and a half on a core; a second start goes on.
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import torch
from PIL import Image

from monai_anomaly.data.phantoms import write_phantoms
from monai_anomaly.evaluation.bootstrap import bootstrap_interval
from monai_anomaly.experiments.detectors import DETECTORS
from monai_anomaly.metrics.curves import Curve, roc_auc
from monai_anomaly.metrics.score_distribution import LabeledScores
from monai_anomaly.transforms import fill_mask, retina_mask
from monai_anomaly.workflows import StrictConfigWorkflow, config_files, find_bundle

GUIDES = ("fanogan", "nsa", "fluidregnet", "ganomaly")
KINDS = ("NORMAL", "CNV", "DME", "DRUSEN")
FOLDS = 2
SIZE = (128, 96)  # A-scans, rows: what the small recipes are for
ALIKE = 0.94  # correlation of scans reduced to 64 x 96, moved upon one another: 0.95 and more within eyes


def read(file: Path) -> np.ndarray:
    """Return a scan as large as a phantom's, its fill as dark as what lies around the retina."""
    image = np.array(Image.open(file).convert("L"))
    fill = fill_mask(torch.from_numpy(image)[None])[0].numpy()
    image[fill] = np.percentile(image[~fill], 25)
    return cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA)


def groups_of(scans: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return a number for each scan, the same for those that look alike."""
    thin = [cv2.GaussianBlur(cv2.resize(s, (96, 64), interpolation=cv2.INTER_AREA).astype(float), (0, 0), 1) for s in
            scans.values()]  # fmt: skip
    plain = [(one - one.mean()) / one.std() for one in thin]
    numbers = list(range(len(plain)))
    moves = [(down, right) for down in range(-16, 17, 2) for right in (-12, -6, 0, 6, 12)]
    for second, image in enumerate(plain):
        moved = [np.roll(image, move, (0, 1)) for move in moves]
        for first in range(second):
            if max(float((plain[first] * one).mean()) for one in moved) > ALIKE:
                old, new = numbers[second], numbers[first]
                numbers = [new if number == old else number for number in numbers]
    return dict(zip(scans, numbers, strict=True))


def write_fold(folder: Path, scans: Mapping[str, np.ndarray], training: set[str]) -> None:
    """Write volumes of one B-scan, and phantoms to the training ones."""
    write_phantoms("oct", folder, num_healthy=9, num_test=0, shape=(*SIZE, 8))
    for name, scan in scans.items():
        file = folder / ("train" if name in training else "test") / "images" / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(scan.T[..., None], np.eye(4)), file)


def run(guide: str, data: Path, out: Path) -> dict[str, float]:
    """Train a guide and return the scores of the test cases."""
    detector = DETECTORS[guide]
    maps = out / "maps" / guide
    if not (maps / "done").is_file():
        places = {"dataset_dir": str(data), "ckpt_dir": str(out / "weights"), "seed": 0}
        for configs in (*detector.train, detector.maps):
            names = [*configs, *([detector.volume] if detector.volume else [])]
            overrides: dict[str, Any] = {**detector.small[""], **detector.small.get(configs[0], {}), **places}
            if configs == detector.maps:
                overrides |= {**detector.small.get("maps", {}), "section": "test", "maps_dir": str(out / "maps")}
            files = config_files(find_bundle(detector.bundle), names)
            known = StrictConfigWorkflow(files, workflow_type=None, logging_file=False).parser
            own = {key: value for key, value in overrides.items() if key in known}
            workflow = StrictConfigWorkflow(files, override=own, workflow_type=None, logging_file=False)
            workflow.initialize()
            workflow.run()
        (maps / "done").touch()
    with (maps / "scores.csv").open(encoding="utf-8") as handle:
        return {Path(row["case"]).name: float(row["anomaly_score"]) for row in csv.DictReader(handle)}


def trivial(scan: np.ndarray) -> dict[str, float]:
    """Return scores that nobody had to learn."""
    image = torch.from_numpy(scan)[None]
    retina = retina_mask(image)[0].numpy() > 0
    inside = scan[retina].astype(float)
    thick = retina.sum(0)
    return {
        "*brightness of the retina*": float(inside.mean()) if len(inside) else 0.0,
        "*dark share of the retina*": float((inside < 0.5 * np.median(inside)).mean()) if len(inside) else 0.0,
        "*thickness of the retina*": float(thick.mean()),
        "*its spread*": float(thick.std()),
    }


def area(healthy: list[float], sick: list[float]) -> float:
    """Return the AUROC."""
    if not healthy or not sick:
        return float("nan")
    pairs = LabeledScores()
    pairs.update(torch.tensor(healthy + sick), torch.tensor([False] * len(healthy) + [True] * len(sick)))
    return roc_auc(Curve.of(pairs))


def judged(scores: list[dict[str, float]], groups: Mapping[str, int], kinds: tuple[str, ...]) -> str:
    """Return the mean AUROC over folds of the healthy against sick kinds, with its interval over look-alikes."""
    chosen = sorted({groups[name] for name in groups if name.startswith(("NORMAL", *kinds))})
    members = {number: [name for name in groups if groups[name] == number] for number in chosen}

    def mean(drawn: np.ndarray) -> float:
        areas = []
        for fold in scores:
            found = [(name, fold[name]) for number in drawn for name in members[number] if name in fold]
            healthy = [score for name, score in found if name.startswith("NORMAL")]
            areas.append(area(healthy, [score for name, score in found if name.startswith(kinds)]))
        return float(np.mean(areas))

    low, high = bootstrap_interval(np.array(chosen), mean, 1000)
    return f"{mean(np.array(chosen)):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--guides", default=",".join(GUIDES))
    known = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    scans = {file.stem: read(file) for kind in KINDS for file in sorted((known.images / kind).glob("*.jp*g"))}
    groups = groups_of(scans)
    healthy = sorted({groups[name] for name in scans if name.startswith("NORMAL")})
    print(f"{len(scans)} scans, {len(set(groups.values()))} that look different, {len(healthy)} of them healthy")
    plain = {name: trivial(scan) for name, scan in scans.items()}
    scores: dict[str, list[dict[str, float]]] = {}
    for fold in range(FOLDS):
        training = {name for name in scans if name.startswith("NORMAL") and healthy.index(groups[name]) % FOLDS == fold}
        folder = known.out / f"fold{fold}"
        write_fold(folder / "data", scans, training)
        for guide in known.guides.split(","):
            scores.setdefault(DETECTORS[guide].title, []).append(run(guide, folder / "data", folder))
        for title in next(iter(plain.values())):
            left = {name: score[title] for name, score in plain.items() if name not in training}
            scores.setdefault(title, []).append(left)
    print("| guide | all sick | " + " | ".join(KINDS[1:]) + " |")
    for title, found in scores.items():
        kinds = (KINDS[1:], *((kind,) for kind in KINDS[1:]))
        print("|", " | ".join([title, *(judged(found, groups, kind) for kind in kinds)]), "|")


if __name__ == "__main__":
    main()
