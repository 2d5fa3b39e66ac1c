"""How hard cores are searched for. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How hard to search.

    Args:
        starts: how many starts are tried before the best is followed.
        sweeps: at most so many ALS sweeps of one start.
        brief: ALS sweeps before starts are compared.
        tolerance: relative change of the error per sweep at which a fit has settled.
        inner: sweeps over each half's cores for one product with W.
        polish: follow ALS by Gauss-Newton steps where the ring is small enough for them.
        restarts: at most so many further starts where W looks as if a ring like this one had made it.
        work: multiply-adds that the further starts may cost.
    """

    starts: int = 3
    sweeps: int = 300
    brief: int = 6
    tolerance: float = 1e-4
    inner: int = 2
    polish: bool = True
    restarts: int = 40
    work: float = 3e11
