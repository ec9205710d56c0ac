"""Evaluation during a run: maps against the untouched labels, tables and figures at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from monai_anomaly import ranks
from monai_anomaly.checks import root_cause
from monai_anomaly.evaluation.conformal import threshold_rows
from monai_anomaly.evaluation.figures import rows_run_up, save_case_figure
from monai_anomaly.evaluation.map_evaluation import Case, MapEvaluation, Protocol
from monai_anomaly.evaluation.mask_evaluation import MaskEvaluation
from monai_anomaly.evaluation.report import write_report
from monai_anomaly.keys import ANOMALY_MAP, ANOMALY_SCORE, CASE, FAILURE

logger = logging.getLogger(__name__)


class EvaluationReport:
    """Compare each case's map with its label and write ``report.md``, tables and figures when the run is over.

    Args:
        output_dir: where the report goes.
        method: the detector's name in the tables.
        protocols: by name, the arguments of `monai_anomaly.evaluation.Protocol`.
        network: the detector, for its calibration and the provenance of its features.
        slice_axis: of volumes, 0 to 2, or a function of the image that tells it.
        num_figures: cases drawn at most, None for all.
        seed: of the random rows and the bootstrap.
        masks: by their names in the table, the keys of masks to compare with the labels; None for no such table.
        dice_by: "subject" or "slice".
        content_key: of the image that is 0 outside the organ, for the masks' trivial row.
        healthy: loader of healthy cases that nothing was fitted on, for thresholds with a promised false-positive rate,
            see `conformal_threshold`; None for no such table.
        false_positive_rates: to promise, as far as there are cases enough.
    """

    def __init__(
        self,
        output_dir: str | Path,
        method: str,
        protocols: Mapping[str, Mapping[str, Any]],
        network: Any,
        slice_axis: Any = 2,
        num_figures: int | None = None,
        seed: int = 0,
        masks: Mapping[str, str] | None = None,
        dice_by: str = "subject",
        content_key: str = "image",
        healthy: Iterable[Any] | None = None,
        false_positive_rates: Sequence[float] = (0.05, 0.1, 0.2),
    ) -> None:
        self.healthy, self.false_positive_rates = healthy, tuple(false_positive_rates)
        self.folder = Path(output_dir)
        self.method = method
        self.network = network
        self.slice_axis = slice_axis
        self.num_figures = num_figures
        self.seed = seed
        self.evaluations = [
            MapEvaluation(Protocol(name=name, **arguments), method, seed) for name, arguments in protocols.items()
        ]
        self.masks = dict(masks or {})
        self.content_key = content_key
        dark_lesions = bool(getattr(network, "dark_lesions", False))
        self.mask_evaluation = MaskEvaluation(dice_by, dark_lesions) if masks else None
        self.num_drawn = 0

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _add(self, engine: Engine) -> None:
        items: Sequence[Any] = engine.state.batch
        for item, output in zip(items, engine.state.output, strict=True):
            axis = self.slice_axis(item["raw"]) if callable(self.slice_axis) else self.slice_axis
            content = convert_to_tensor(item[self.content_key]).cpu().mean(0, keepdim=True) if self.masks else None
            case = Case(
                name=item[CASE],
                group=item.get("group", "unlabeled"),
                image=convert_to_tensor(item["raw"]).cpu(),
                anomaly_map=convert_to_tensor(output[ANOMALY_MAP]).cpu(),
                score=float(convert_to_tensor(output[ANOMALY_SCORE]).max()),
                label=convert_to_tensor(item["label"]).cpu(),
                exclude=convert_to_tensor(item["exclude"]).cpu(),
                slice_axis=axis,
                flip=rows_run_up(item["raw"].affine, axis),
                content=content,
                grade=item.get("grade"),
            )
            for evaluation in self.evaluations:
                evaluation.add(case)
            masks = {name: convert_to_tensor(output[key]).cpu() for name, key in self.masks.items()}
            if self.mask_evaluation is not None and content is not None:
                self.mask_evaluation.add(case.name, content, case.label, masks, axis)
            if self.num_figures is None or self.num_drawn < ranks.part_of(self.num_figures):
                calibrated = self.network.calibration(case.anomaly_map.to(self.network.calibration.levels.device))
                prediction = list(masks.values())[-1] if masks else None
                save_case_figure(self.folder / "cases" / f"{case.name}.png", case, calibrated.cpu(), prediction)
                self.num_drawn += 1

    def _finish(self, engine: Engine) -> None:
        evaluations = [ranks.merged(evaluation) for evaluation in self.evaluations]
        masks = None if self.mask_evaluation is None else ranks.merged(self.mask_evaluation)
        failures = ranks.joined(getattr(engine, "failures", []))
        if not evaluations[0].rows or not ranks.is_first():
            return
        provenance = getattr(self.network, "feature_provenance", None)
        notes = [] if provenance is None else [f"Features: {provenance}."]
        if failures:
            notes.append(f"{len(failures)} cases failed and are not in these figures; see failures.csv.")
        first = evaluations[0]
        healthy, own = self._healthy_scores(engine), first.image_scores[self.method]
        thresholds = threshold_rows(healthy, self.false_positive_rates, own, first.image_labels)
        calibration = getattr(self.network, "calibration", None)
        levels = calibration.levels.cpu().numpy() if calibration is not None and calibration.is_fitted else None
        path = write_report(self.folder, evaluations, notes, self.seed, masks, thresholds, levels)
        logger.info("report: %s", path)

    def _healthy_scores(self, engine: Any) -> list[float]:
        """Return the scores of the healthy cases held out, as the run scores its own; those that fail are left out."""
        scores = []
        self.network.eval()
        for batch in self.healthy or ():
            if FAILURE in batch:
                logger.warning("healthy case %s is not in the threshold: %s", batch[CASE], batch[FAILURE])
                continue
            image = convert_to_tensor(batch["image"], track_meta=True).to(engine.state.device)
            try:
                with torch.inference_mode():
                    found = engine.inferer(image, self.network)
            except Exception as error:  # noqa: BLE001 - the report of the others does not wait for it
                logger.warning("healthy case %s is not in the threshold: %s", batch[CASE][0], root_cause(error))
                continue
            scores.append(float(convert_to_tensor(found[ANOMALY_SCORE]).max()))
        return scores
