"""From what each tensor's levels cost and save to the order in which they are taken: cheapest damage first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite


@dataclass(frozen=True)
class Measured:
    """One level of one choice.

    Args:
        level: its place among the choice's levels.
        nbytes: what it takes.
        damage: distance of the outputs when this choice alone has it.
    """

    level: int
    nbytes: int
    damage: float


@dataclass(frozen=True)
class Move:
    """One step down the ladder.

    Args:
        choice: which tensor.
        level: the level it goes to.
        saved_bytes: bytes that this saves.
        damage: that it adds, measured alone.
    """

    choice: str
    level: int
    saved_bytes: int
    damage: float

    @property
    def price(self) -> float:
        """Damage per byte saved."""
        return self.damage / self.saved_bytes


def lower_hull(levels: Sequence[Measured]) -> list[Measured]:
    """Keep the levels that no mixture of two others beats, from the most bytes to the fewest.

    Example:
        >>> hull = lower_hull([Measured(0, 100, 0.0), Measured(1, 60, 5.0), Measured(2, 50, 1.0)])
        >>> [one.level for one in hull]
        [0, 2]
    """
    usable = [one for one in levels if isfinite(one.damage)]
    hull: list[Measured] = []
    for one in sorted(usable, key=lambda level: (-level.nbytes, level.damage)):
        if hull and one.nbytes == hull[-1].nbytes:
            continue
        while hull and one.damage <= hull[-1].damage:
            hull.pop()
        while len(hull) > 1 and _slope(hull[-2], one) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(one)
    return hull


def moves(measured: Mapping[str, Sequence[Measured]]) -> tuple[dict[str, int], list[Move]]:
    """Order every worthwhile step of every choice by damage per byte.

    Args:
        measured: the levels of each choice; the first is the tensor as it is.

    Returns:
        The level where each choice begins (the coarsest that does no damage at all), and the steps.
    """
    hulls = {name: lower_hull(levels) for name, levels in measured.items()}
    start = {name: hull[0].level for name, hull in hulls.items()}
    steps = [
        Move(name, after.level, before.nbytes - after.nbytes, after.damage - before.damage)
        for name, hull in hulls.items()
        for before, after in pairwise(hull)
    ]
    return start, sorted(steps, key=lambda move: move.price)


def _slope(before: Measured, after: Measured) -> float:
    saved = before.nbytes - after.nbytes
    return (after.damage - before.damage) / saved if saved else inf
