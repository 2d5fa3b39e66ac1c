"""How hard a search tries, in work and never in seconds: the same inputs give the same plan on any machine."""

from __future__ import annotations

from dataclasses import dataclass

from trcompress.errors import one_of


@dataclass(frozen=True)
class Effort:
    """What a search may cost.

    Args:
        work: multiply-adds of all ring fits together.
        passes: runs over held-out data with all weights in place, while ranks are shared.
        rings: rings of each weight that are fitted to the end and measured at the outputs, SVDs not counted.
    """

    work: float
    passes: int
    rings: int

    def work_of_each(self, weights: int, calibrated: bool) -> float:
        """Multiply-adds for one of so many weights; less where data decides, since rings seldom win there."""
        return max(LEAST_WORK, (CALIBRATED if calibrated else 1.0) * self.work / weights)


LEAST_WORK = 3e9
CALIBRATED = 0.1
"""Share of the work that goes into rings where the rows are measured at the outputs afterwards."""

EFFORTS = {
    "low": Effort(work=2.5e10, passes=20, rings=1),
    "normal": Effort(work=1e11, passes=60, rings=2),
    "high": Effort(work=1e12, passes=240, rings=6),
}


def effort_of(name: str) -> Effort:
    """Look an effort up.

    Raises:
        UsageError: there is no such effort.

    Example:
        >>> effort_of("normal").passes
        60
    """
    return EFFORTS[one_of("effort", name, EFFORTS)]
