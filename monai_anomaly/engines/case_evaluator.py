"""Evaluation case by case, where a bad case does not take the others with it."""

from __future__ import annotations

import logging
from typing import Any

from monai.engines import SupervisedEvaluator

from monai_anomaly.checks import root_cause
from monai_anomaly.keys import CASE, FAILURE

logger = logging.getLogger(__name__)


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's SupervisedEvaluator, one case per batch, which notes a failing case and goes on.

    A case fails while it is read (`monai_anomaly.data.CaseDataset`), in the network, or in the postprocessing. The
    failures are in ``failures`` as pairs (case, reason); `monai_anomaly.handlers.FailureReport` writes them down and
    ends the run with an error. For a failed case, ``engine.state.output`` is an empty list.

    The arguments are those of SupervisedEvaluator.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures: list[tuple[str, str]] = []

    def _iteration(self, engine: CaseEvaluator, batchdata: dict[str, Any]) -> Any:
        if FAILURE in batchdata:
            return self._fail(batchdata[CASE], batchdata[FAILURE])
        case = batchdata.get(CASE, [f"case {engine.state.iteration}"])[0]
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:
            logger.debug("case %s", case, exc_info=True)
            return self._fail(case, root_cause(error))

    def _fail(self, case: str, reason: str) -> list[Any]:
        logger.error("%s failed: %s", case, reason)
        self.failures.append((case, reason))
        self.state.batch, self.state.output = [], []
        return []
