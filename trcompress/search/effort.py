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

    def shares(self, weights: int, tasks: int, calibrated: bool) -> tuple[float, float]:
        """Multiply-adds for the first weight of every task, and for each that repeats one.

        All weights get the same for as long as that keeps to twice the work. Beyond, a weight of the same sizes and
        budget as one before is given only what it takes to try the rings that were best there.

        Args:
            weights: how many there are.
            tasks: how many differ in their sizes or their budget.
            calibrated: data decides afterwards: less, since rings seldom win there.

        Example:
            >>> EFFORTS["normal"].shares(weights=4, tasks=2, calibrated=False)
            (25000000000.0, 25000000000.0)
            >>> EFFORTS["normal"].shares(weights=200, tasks=1, calibrated=False)
            (3000000000.0, 500000000.0)
        """
        each = max(LEAST_WORK, (CALIBRATED if calibrated else 1.0) * self.work / weights)
        if each * weights <= MOST_WORK * self.work:
            return each, each
        return min(each, MOST_WORK * self.work / tasks), min(each, self.work / weights)


LEAST_WORK = 3e9
"""For one weight of few: a first look at some thirty rings of small modes."""
MOST_WORK = 2.0
"""Times the work that least shares may add up to."""
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
