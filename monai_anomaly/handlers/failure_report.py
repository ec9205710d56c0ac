"""Cases that could not be done: written down, and the run ends with an error."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_anomaly import ranks
from monai_anomaly.data.writers import write_atomically


class CasesFailedError(RuntimeError):
    """A run did all it could, but for some cases."""


class FailureReport:
    """Write ``failures.csv`` when a run is over and stop with an error where any case failed.

    Attach it after the handlers whose results should be saved first. The engine has ``failures``, pairs (case, reason),
    as `CaseEvaluator` and `MemoryBankFitter` do.

    Args:
        output_dir: where the table goes.
        failures_of: what have ``failures`` instead of the engine: data sets without the cases that failed.
        besides: what have ``failures`` beside these, and a length without them.

    Raises:
        CasesFailedError: at the end of the run, if a case failed.
    """

    def __init__(
        self, output_dir: str | Path, failures_of: Sequence[Any] | None = None, besides: Sequence[Any] = ()
    ) -> None:
        self.failures_of, self.besides = failures_of, list(besides)
        self.file = Path(output_dir) / "failures.csv"

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Report."""
        sources = [*([engine] if self.failures_of is None else self.failures_of), *self.besides]
        own = [pair for source in sources for pair in source.failures]
        failures: list[tuple[str, str]] = list(dict.fromkeys(ranks.joined(own)))
        total = sum(ranks.gathered(engine.state.epoch_length or 0))
        if self.failures_of is None:
            engine.failures = failures  # every process knows of all
        if not ranks.is_first():
            return
        if not failures:
            self.file.unlink(missing_ok=True)
            return

        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("case", "reason"), *failures])

        write_atomically(self.file, write)
        shown = "; ".join(f"{case}: {reason}" for case, reason in failures[:3])
        more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
        if self.failures_of is not None:
            total = sum(map(_num_cases, self.failures_of))
        total += sum(map(_num_cases, self.besides))
        counts = f"{len(failures)} of {total} cases failed, the others are done"
        msg = f"{counts}: {shown.rstrip('.')}{more}. All reasons: {self.file}"
        raise CasesFailedError(msg)


def _num_cases(source: Any) -> int:
    """Return how many cases there were: of slices their volumes."""
    volumes = getattr(source, "volumes", None)
    return len(source) + len(source.failures) if volumes is None else len(volumes)
