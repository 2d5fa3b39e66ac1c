"""One budget over all weights, spent where the network's outputs need it: ranks, or a weight that stays dense.

Several divisions are tried with all weights in place (by rank curves, and those that are given to start from); from
the best one, ranks are moved between weights for as long as that brings the outputs closer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from trcompress.calibration.live import LiveNetwork
from trcompress.calibration.rank_curves import RankCurve, TwoModeWeight, rank_curve, two_mode_weight
from trcompress.calibration.select import joint_distance
from trcompress.decomposition import MatrixSource
from trcompress.model.matrix import Matrix
from trcompress.util.progress import Progress

Ranks = Mapping[str, int | None]
"""The rank of each weight's two-mode ring, or None where it stays dense."""

LOOKS = 9
"""Ranks at which the cost of a weight is measured; between them it is interpolated."""


@dataclass(frozen=True)
class Shared:
    """Ranks for all weights together.

    Args:
        ranks: of each weight, None where it stays dense.
        distance: of the outputs with all of them in place, each under the metric that is best for it alone.
        origin: which division led there.
        tried: the distance of every division that was compared, by its name.
    """

    ranks: dict[str, int | None]
    distance: float
    origin: str
    tried: Mapping[str, float]


def cost(matrix: Matrix, rank: int | None) -> int:
    """Parameters of a weight at a rank; all of them where it stays dense."""
    return matrix.parameters if rank is None else rank * (matrix.rows + matrix.columns)


def break_even_rank(matrix: Matrix) -> int:
    """Return the least rank at which two factors are no smaller than the weight itself."""
    return -(-matrix.parameters // (matrix.rows + matrix.columns))


def share_ranks(
    live: LiveNetwork,
    weights: Sequence[tuple[Matrix, MatrixSource]],
    budget: int,
    starts: Mapping[str, Ranks],
    *,
    passes: int,
    progress: Progress | None = None,
) -> Shared:
    """Give every weight the rank that serves the outputs best, within a budget for all together.

    Args:
        live: the network on its data.
        weights: those to share between; all must be fed.
        budget: most input-to-hidden parameters of all together; every one of `starts` must keep to it.
        starts: divisions to compare, by name.
        passes: runs over the held-out set with all weights in place, at most.
        progress: called with (what, fraction done).
    """
    tell = progress or (lambda *_: None)
    matrices = {matrix.key: matrix for matrix, _ in weights}
    spare = budget - sum(cost(matrix, 1) for matrix in matrices.values())
    tables, curves = {}, {}
    for done, (matrix, source) in enumerate(weights):
        tell(f"rank curve of {matrix.key}", 0.7 * done / len(weights))
        highest = min(break_even_rank(matrix) - 1, 1 + spare // cost(matrix, 1))
        tables[matrix.key] = two_mode_weight(live, matrix, source, max(1, highest))
        curves[matrix.key] = rank_curve(live, tables[matrix.key], LOOKS)
    joint = _Joint(live, matrices, tables, curves, passes)
    divisions: dict[str, Ranks] = {"rank curves": _by_curves(matrices, curves, budget), **starts}
    tried = {name: joint(ranks) for name, ranks in divisions.items()}
    origin = min(tried, key=tried.__getitem__)
    tell("ranks moved between weights", 0.8)
    ranks, distance = _moved(joint, dict(divisions[origin]), tried[origin], budget)
    return Shared(ranks, distance, origin, tried)


@dataclass
class _Joint:
    """The distance with all weights in place, at most so many times."""

    live: LiveNetwork
    matrices: Mapping[str, Matrix]
    tables: Mapping[str, TwoModeWeight]
    curves: Mapping[str, RankCurve]
    passes: int
    known: dict[tuple[tuple[str, int | None], ...], float] = field(default_factory=dict)

    def __call__(self, ranks: Ranks) -> float:
        key = tuple(sorted(ranks.items(), key=lambda pair: pair[0]))
        if key not in self.known:
            self.passes -= 1
            placed = [
                self.tables[name].at(rank, self.curves[name].metrics[min(rank, self.tables[name].highest)])
                for name, rank in ranks.items()
                if rank is not None
            ]
            self.known[key] = joint_distance(self.live, placed, brief=True)
        return self.known[key]


def _by_curves(
    matrices: Mapping[str, Matrix], curves: Mapping[str, RankCurve], budget: int
) -> dict[str, int | None]:
    """Spend parameters where they lower the sum of costs most, looking ahead over flat stretches."""
    ranks: dict[str, int | None] = dict.fromkeys(matrices, 1)
    left = budget - sum(cost(matrix, 1) for matrix in matrices.values())
    while True:
        best: tuple[float, str, int | None] | None = None
        for name, gain, rank in _steps(matrices, curves, ranks, left):
            if best is None or gain > best[0]:
                best = gain, name, rank
        if best is None:
            return ranks
        _, name, rank = best
        left -= cost(matrices[name], rank) - cost(matrices[name], ranks[name])
        ranks[name] = rank


def _steps(
    matrices: Mapping[str, Matrix], curves: Mapping[str, RankCurve], ranks: Ranks, left: int
) -> Iterator[tuple[str, float, int | None]]:
    """The best step up of every weight that the budget allows: (weight, gain a parameter, rank after it)."""
    for name, rank in ranks.items():
        if rank is None:
            continue
        values, matrix = curves[name].values, matrices[name]
        highest = min(len(values) - 1, rank + left // cost(matrix, 1))
        if highest > rank:
            gain, higher = steepest(values, rank, highest)
            yield name, gain / cost(matrix, 1), higher
        if (price := cost(matrix, None) - cost(matrix, rank)) <= left:
            yield name, float(values[rank]) / max(1, price), None


def steepest(values: np.ndarray, rank: int, highest: int) -> tuple[float, int]:
    """The rank above a rank, and up to a highest one, that values fall to most a step: (fall a step, that rank)."""
    falls = (values[rank] - values[rank + 1 : highest + 1]) / np.arange(1, highest - rank + 1)
    best = int(falls.argmax())
    return float(falls[best]), rank + 1 + best


def _moved(
    joint: _Joint, ranks: dict[str, int | None], distance: float, budget: int
) -> tuple[dict[str, int | None], float]:
    """Move ranks between pairs of weights, many at once first, then single ones."""
    size = max(1, max((rank or 0 for rank in ranks.values()), default=1) // 4)
    while size:
        better = False
        for giver, taker in permutations(ranks, 2):
            for trial in _transfers(joint, ranks, giver, taker, size, budget):
                if joint.passes > 0 and (found := joint(trial)) < distance:
                    ranks, distance, better = trial, found, True
                    break
        size = size if better and joint.passes > 0 else size // 2
    return ranks, distance


def _transfers(
    joint: _Joint, ranks: Ranks, giver: str, taker: str, size: int, budget: int
) -> Iterator[dict[str, int | None]]:
    """Ranks after one weight gives some to another; a weight next to dense becomes it, a dense one may give too."""
    matrices = joint.matrices
    if ranks[taker] is None:
        return
    lowered = joint.tables[giver].highest if ranks[giver] is None else ranks[giver] - size  # type: ignore[operator]
    if lowered < 1:
        return
    rest = budget - sum(cost(matrices[name], rank) for name, rank in ranks.items() if name not in (giver, taker))
    spare = rest - cost(matrices[giver], lowered)
    if spare >= matrices[taker].parameters:
        yield {**ranks, giver: lowered, taker: None}
    raised = min(spare // cost(matrices[taker], 1), joint.tables[taker].highest)
    if raised > (ranks[taker] or 0):
        yield {**ranks, giver: lowered, taker: int(raised)}
