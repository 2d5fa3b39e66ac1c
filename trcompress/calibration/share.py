"""Ranks shared out between weights by what each costs at the network's outputs, not evenly.

The metric-optimal factors of a weight are nested: those of rank K are the first K columns of those of a higher
rank. So one decomposition per weight and metric gives what every rank costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import inf
from time import monotonic

import numpy as np
from torch import Tensor

from trcompress.calibration.bench import Bench
from trcompress.calibration.bias import bias_shift
from trcompress.calibration.metrics import MIDDLE, candidates
from trcompress.calibration.outputs import Exam
from trcompress.calibration.select import Candidate, replaced
from trcompress.calibration.solve import ring_of, two_mode_factors
from trcompress.decomposition import MatrixSource, Metric
from trcompress.decomposition.tr_svd import split_halves
from trcompress.decomposition.weight import CompressedWeight, gate_sources
from trcompress.errors import UsageError
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Rule
from trcompress.model.weight_plan import WeightPlan

LOOKS = 9
"""Ranks at which the cost of a weight is measured; between them it is interpolated."""
KEPT_METRICS = 2
"""Metrics that are followed over all ranks: those that do best at a middle one."""


@dataclass(frozen=True)
class Shared:
    """Ranks for all weights together.

    Args:
        ranks: of the two-mode ring of each weight.
        difference: of the outputs with all of them in place, each under the metric that is best for it alone.
        even_ranks: what each weight would have in proportion to its size.
        even_difference: of the outputs with those.
    """

    ranks: dict[str, int]
    difference: float
    even_ranks: dict[str, int]
    even_difference: float


@dataclass(frozen=True)
class Ladder:
    """One weight at every rank.

    Args:
        matrix: the weight.
        dense: W (I, G*H).
        mean: (I,) of its inputs.
        bias: its input bias in float64, or None where it must not change.
        factors: A (I, K) and B (K, O) for each metric tried, the highest rank.
    """

    matrix: Matrix
    dense: MatrixSource
    mean: Tensor
    bias: Tensor | None
    factors: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def step(self) -> int:
        """Parameters of one more rank."""
        return self.matrix.columns + self.matrix.rows

    @property
    def highest(self) -> int:
        """The highest rank there is."""
        return max(len(right) for _, right in self.factors.values())

    def at(self, rank: int, metric: str) -> Candidate:
        """The weight at one rank under a metric, its bias corrected."""
        plan = two_mode(self.matrix, rank)
        left, right = self.factors[metric]
        cores = tuple(split_halves(ring_of(plan), left[:, :rank], right[:rank]))
        shift = None if self.bias is None else self.bias + bias_shift(plan, self.dense, cores, self.mean)
        return Candidate(metric, CompressedWeight(plan, cores, 0.0, 0.0, "tr-svd", ()), shift, 0.0)


@dataclass(frozen=True)
class Cost:
    """What a weight costs at the outputs, all other weights dense.

    Args:
        values: by rank, from 0; they never rise.
        metrics: the best one by rank.
    """

    values: np.ndarray
    metrics: tuple[str, ...]


def share_ranks(
    bench: Bench,
    weights: Sequence[tuple[Matrix, MatrixSource]],
    budget: int,
    *,
    deadline: float = inf,
) -> Shared:
    """Give every weight the rank that serves the outputs best, within a budget for all together.

    Args:
        bench: the network on its data.
        weights: those to share between, each with its values; all must be fed.
        budget: most input-to-hidden parameters of all together.
        deadline: `time.monotonic()` after which nothing is measured that an answer does not need.

    Raises:
        UsageError: the budget does not allow rank 1 for each.
    """
    steps = {matrix.key: matrix.columns + matrix.rows for matrix, _ in weights}
    if budget < sum(steps.values()):
        raise UsageError(f"{budget:,} parameters do not allow rank 1 for each of {', '.join(steps)}")
    exam = bench.brief_exam
    ladders = {matrix.key: _ladder(bench, matrix, dense, budget // steps[matrix.key]) for matrix, dense in weights}
    costs = {name: _cost(bench, exam, ladder, deadline) for name, ladder in ladders.items()}

    def joint(ranks: Mapping[str, int]) -> float:
        placed = [ladders[name].at(rank, costs[name].metrics[rank]) for name, rank in ranks.items()]
        return bench.joint(placed, exam)

    even = _even(ladders, budget)
    even_score = joint(even)
    ranks = _greedy(ladders, costs, budget)
    score = joint(ranks)
    if even_score < score:
        ranks, score = even, even_score
    ranks, score = _Moves(ladders, joint, budget, deadline).settle(ranks, score)
    return Shared(ranks, score, even, even_score)


def two_mode(matrix: Matrix, rank: int) -> WeightPlan:
    """A weight as a product of two matrices."""
    return _rule(matrix, rank).resolve(matrix)


def _rule(matrix: Matrix, rank: int) -> Rule:
    return Rule((matrix.columns,), (matrix.rows,), (1, rank))


def _ladder(bench: Bench, matrix: Matrix, dense: MatrixSource, highest: int) -> Ladder:
    network = bench.network
    moments = bench.moments(network.unit(matrix.key))
    metrics: list[Metric] = candidates(moments, bench.sensitivity(matrix.key), ridges=MIDDLE)
    source = gate_sources(two_mode(matrix, 1), dense)[0]
    highest = min(highest, matrix.columns, matrix.rows)
    key = network.free_bias(matrix.key)
    return Ladder(
        matrix,
        dense,
        moments.mean,
        None if key is None else network.tensors[key].double(),
        {metric.name: two_mode_factors(source, highest, metric) for metric in metrics},
    )


def _cost(bench: Bench, exam: Exam, ladder: Ladder, deadline: float) -> Cost:
    """Measure the difference of the outputs at some ranks, the middle and the ends first."""
    unit = bench.network.unit(ladder.matrix.key)

    def measured(rank: int, metric: str) -> float:
        score = exam.score({unit.name: replaced(bench.network, unit, [ladder.at(rank, metric)])})
        return max(score, 1e-12)

    ranks = [int(rank) for rank in np.unique(np.geomspace(1, ladder.highest, LOOKS).round())]
    middle = ranks.pop(len(ranks) // 2)
    first = {metric: measured(middle, metric) for metric in ladder.factors}
    kept = sorted(first, key=first.__getitem__)[:KEPT_METRICS]
    looks = {middle: (first[kept[0]], kept[0])}
    for rank in sorted(ranks, key=lambda rank: rank not in (1, ladder.highest)):
        if len(looks) < 3 or monotonic() < deadline:
            looks[rank] = min((measured(rank, metric), metric) for metric in kept)
    seen = sorted(looks)
    falling = np.minimum.accumulate([looks[rank][0] for rank in seen])
    values = np.exp(np.interp(np.arange(ladder.highest + 1), seen, np.log(falling)))
    nearest = [min(seen, key=lambda look: abs(look - rank)) for rank in range(ladder.highest + 1)]
    return Cost(values, tuple(looks[look][1] for look in nearest))


def _even(ladders: Mapping[str, Ladder], budget: int) -> dict[str, int]:
    """Ranks in proportion to the sizes of the weights: every weight reaches the same ratio."""
    whole = sum(ladder.matrix.parameters for ladder in ladders.values())
    shares = {name: budget * one.matrix.parameters / whole / one.step for name, one in ladders.items()}
    return {name: max(1, min(int(share), ladders[name].highest)) for name, share in shares.items()}


def _greedy(ladders: Mapping[str, Ladder], costs: Mapping[str, Cost], budget: int) -> dict[str, int]:
    """Spend parameters where they lower the sum of costs most, looking ahead over flat stretches."""
    ranks = dict.fromkeys(ladders, 1)
    left = budget - sum(ladder.step for ladder in ladders.values())
    while True:
        best: tuple[float, str, int] | None = None
        for name, ladder in ladders.items():
            most = min(ladder.highest, ranks[name] + left // ladder.step)
            values = costs[name].values
            for rank in range(ranks[name] + 1, most + 1):
                gain = (values[ranks[name]] - values[rank]) / ((rank - ranks[name]) * ladder.step)
                if best is None or gain > best[0]:
                    best = gain, name, rank
        if best is None:
            return ranks
        left -= (best[2] - ranks[best[1]]) * ladders[best[1]].step
        ranks[best[1]] = best[2]


@dataclass(frozen=True)
class _Moves:
    """Ranks moved between pairs of weights as long as that brings the outputs of all together closer."""

    ladders: Mapping[str, Ladder]
    joint: Callable[[Mapping[str, int]], float]
    budget: int
    deadline: float

    def settle(self, ranks: dict[str, int], score: float) -> tuple[dict[str, int], float]:
        """Move ranks, many at once first, then single ones."""
        size = max(1, max(ranks.values()) // 4)
        while size:
            moved = False
            for giver, taker in permutations(self.ladders, 2):
                trial = self._moved(ranks, giver, taker, size)
                if trial and monotonic() < self.deadline and (found := self.joint(trial)) < score:
                    ranks, score, moved = trial, found, True
            size = size if moved else size // 2
        return ranks, score

    def _moved(self, ranks: Mapping[str, int], giver: str, taker: str, size: int) -> dict[str, int] | None:
        """Ranks after one weight gives `size` of them to another, or None where it cannot."""
        trial = dict(ranks)
        trial[giver] -= size
        spare = self.budget - sum(rank * self.ladders[name].step for name, rank in trial.items())
        gained = min(spare // self.ladders[taker].step, self.ladders[taker].highest - trial[taker])
        trial[taker] += gained
        return trial if trial[giver] >= 1 and gained >= 1 else None
