"""Evaluation case by case, where a bad case does not take the others with it."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ignite.engine import Events
from monai.engines import SupervisedEvaluator

from monai_anomaly.checks import root_cause
from monai_anomaly.data.writers import BackgroundWrites
from monai_anomaly.keys import CASE, DONE, FAILURE

logger = logging.getLogger(__name__)


@dataclass
class _Pending:
    """A case whose files are being written."""

    case: str
    batch: list[Any]
    output: list[Any]
    jobs: list[Future[Any]]


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's SupervisedEvaluator, one case per batch, which notes a failing case and goes on.

    A case fails while it is read (`monai_anomaly.data.CaseDataset`), in the network, in the postprocessing, or while
    its files are written. The failures are in ``failures`` as pairs (case, reason);
    `monai_anomaly.handlers.FailureReport` writes them down and ends the run with an error.

    A case's files are written while the next one is read and computed (`monai_anomaly.data.BackgroundWrites`). Handlers
    of ``ITERATION_COMPLETED`` see a case when its files are there: one call later than MONAI's, with one call more in
    the end. Where there is no case to see, ``engine.state.output`` is an empty list.

    The arguments are those of SupervisedEvaluator.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures: list[tuple[str, str]] = []
        self.done_cases: frozenset[str] = frozenset()
        self._pending: _Pending | None = None
        if not self.has_event_handler(CaseEvaluator._flush):
            self.add_event_handler(Events.EPOCH_COMPLETED, CaseEvaluator._flush)

    def run(self, global_epoch: int = 1) -> None:
        """Run over all cases."""
        self._pending = None
        with BackgroundWrites():
            super().run(global_epoch)

    def _register_handlers(self, handlers: Any) -> None:
        self.add_event_handler(Events.EPOCH_COMPLETED, CaseEvaluator._flush)
        super()._register_handlers(handlers)

    def _iteration(self, engine: CaseEvaluator, batchdata: dict[str, Any]) -> Any:
        before, self._pending = self._pending, None
        if FAILURE in batchdata:
            self._fail(batchdata[CASE], batchdata[FAILURE])
        elif DONE not in batchdata:
            case = batchdata.get(CASE, [f"case {engine.state.iteration}"])[0]
            try:
                super()._iteration(engine, batchdata)
                self._pending = _Pending(case, self.state.batch, self.state.output, self._jobs())
            except Exception as error:
                logger.debug("case %s", case, exc_info=True)
                self._fail(case, root_cause(error))
                self._jobs()
        return self._see(before)

    @staticmethod
    def _jobs() -> list[Future[Any]]:
        return [] if BackgroundWrites.active is None else BackgroundWrites.active.take()

    def _see(self, pending: _Pending | None) -> list[Any]:
        """Put a case whose files are there where handlers look for it."""
        self.state.batch, self.state.output = [], []
        if pending is not None:
            try:
                for job in pending.jobs:
                    job.result()
            except Exception as error:
                logger.debug("case %s", pending.case, exc_info=True)
                self._fail(pending.case, root_cause(error))
            else:
                self.state.batch, self.state.output = pending.batch, pending.output
        return self.state.output

    @staticmethod
    def _flush(engine: CaseEvaluator) -> None:
        """Let the handlers see the last case."""
        last, engine._pending = engine._pending, None
        if last is not None:
            engine._see(last)
            engine.fire_event(Events.ITERATION_COMPLETED)

    def _fail(self, case: str, reason: str) -> None:
        logger.error("%s failed: %s", case, reason)
        self.failures.append((case, reason))
