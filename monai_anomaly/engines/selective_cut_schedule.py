"""Who is trained when: cycles of discriminator and main module in two stages (Dey et al. 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from monai_anomaly.checks import check_option, check_range


@dataclass(frozen=True)
class CutReadings:
    """What the paper leaves open, and the published code decides otherwise.

    Args:
        d_epochs: passes of the discriminator D over the data in one cycle ("more than one", section 3.2).
        m_epochs: passes of the main module M.
        reinit_discriminator: D starts each of its steps with new weights, as the published code does.
        duplicate: in stage two, whose reference set is twice as large, cuts are shown to D and inputs to M twice.
        real_label: D's answer for the reference, 1 or -1.
        binarize: in stage two the disjointness loss sees every value above 0 as 1, and has no gradient.
        reconstruction: "mean" or "sum" over an image's pixels.
        stop_at_peaks: end the training after a cycle whose histogram has as many separate peaks, 0 for never.
    """

    d_epochs: int
    m_epochs: int
    reinit_discriminator: bool
    duplicate: bool
    real_label: float
    binarize: bool
    reconstruction: str
    stop_at_peaks: int


PRESETS = {
    "paper": CutReadings(1, 1, False, False, 1.0, False, "sum", 0),
    "published_code": CutReadings(3, 5, True, True, -1.0, True, "mean", 0),
    "recommended": CutReadings(3, 5, True, True, 1.0, False, "mean", 3),
}


def cut_readings(
    preset: str = "recommended",
    d_epochs: int | None = None,
    m_epochs: int | None = None,
    reinit_discriminator: bool | None = None,
    duplicate: bool | None = None,
    real_label: float | None = None,
    binarize: bool | None = None,
    reconstruction: str | None = None,
    stop_at_peaks: int | None = None,
) -> CutReadings:
    """Return a preset with some readings changed; None leaves the preset's.

    Args:
        preset: "paper", "published_code" or "recommended".
        d_epochs: see `CutReadings`, as the others.
        m_epochs: at least 1.
        reinit_discriminator: or not.
        duplicate: or not.
        real_label: 1 or -1.
        binarize: or not.
        reconstruction: "mean" or "sum".
        stop_at_peaks: at least 0.

    Raises:
        ValueError: an unknown preset, or numbers out of range.
    """
    changes = {name: value for name, value in locals().items() if name != "preset" and value is not None}
    readings = replace(PRESETS[check_option("preset", preset, list(PRESETS))], **changes)
    check_range("d_epochs", readings.d_epochs, 1)
    check_range("m_epochs", readings.m_epochs, 1)
    check_range("stop_at_peaks", readings.stop_at_peaks, 0)
    return readings


@dataclass(frozen=True)
class CutStep:
    """One pass over the data: stage 1 or 2, cycle within the stage, "D" or "M", and the pass within the step."""

    stage: int
    cycle: int
    module: str
    number: int
    of: int

    @property
    def ends_cycle(self) -> bool:
        """Whether a cycle is complete after this pass."""
        return self.module == "M" and self.number == self.of

    def __str__(self) -> str:
        return f"stage {self.stage} cycle {self.cycle} {self.module} {self.number}/{self.of}"


def cut_schedule(cycles: Sequence[int], readings: CutReadings) -> list[CutStep]:
    """Return all passes in order.

    Args:
        cycles: in stage one and in stage two (MS-SEG: 3, 1).
        readings: epochs of each step.

    Raises:
        ValueError: not two numbers, or none above 0.
    """
    if len(cycles) != 2 or min(cycles) < 0 or not sum(cycles):
        msg = f"cycles must be two numbers, of stage one and two, not both 0; got {list(cycles)}."
        raise ValueError(msg)
    return [
        CutStep(stage, cycle, module, number, epochs)
        for stage, count in enumerate(cycles, 1)
        for cycle in range(1, count + 1)
        for module, epochs in (("D", readings.d_epochs), ("M", readings.m_epochs))
        for number in range(1, epochs + 1)
    ]
