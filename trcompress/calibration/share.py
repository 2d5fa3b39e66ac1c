"""Ranks shared out between weights by what each costs at the network's outputs, not evenly.

The metric-optimal factors of a weight are nested: those of rank K are the first K columns of those of a higher
rank. So one decomposition per weight and metric gives what every rank costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from torch import Tensor

from trcompress.calibration.bench import Bench
from trcompress.calibration.bias import bias_shift
from trcompress.calibration.metrics import MIDDLE, Metric, candidates
from trcompress.calibration.select import Candidate, replaced
from trcompress.calibration.solve import ring_of, two_mode_factors
from trcompress.decompose import FileMatrix
from trcompress.decompose.tr_svd import split_halves
from trcompress.errors import UsageError
from trcompress.plan import Plan, Rule, WeightPlan
from trcompress.slots import WeightSlot
from trcompress.weights import CompressedWeight, matrices_of

LOOKS = 10
"""Ranks at which the cost of a weight is measured; between them it is interpolated."""


@dataclass(frozen=True)
class Ladder:
    """One weight at every rank.

    Args:
        slot: the weight.
        dense: its values (G*H, I).
        mean: (I,) of its inputs.
        bias: its input bias in float64, or None where it must not change.
        factors: A (I, K) and B (K, O) for each metric tried, the highest rank.
    """

    slot: WeightSlot
    dense: Tensor | FileMatrix
    mean: Tensor
    bias: Tensor | None
    factors: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def step(self) -> int:
        """Parameters of one more rank."""
        return self.slot.input_size + self.slot.output_size

    @property
    def highest(self) -> int:
        """The highest rank there is."""
        return max(len(right) for _, right in self.factors.values())

    def at(self, rank: int) -> list[Candidate]:
        """The weight at one rank, under each metric, its bias corrected."""
        plan = two_mode(self.slot, rank)
        found = []
        for metric, (left, right) in self.factors.items():
            cores = tuple(split_halves(ring_of(plan), left[:, :rank], right[:rank]))
            weight = CompressedWeight(plan, cores, 0.0, 0.0, "tr-svd", ())
            shift = None if self.bias is None else self.bias + bias_shift(plan, self.dense, cores, self.mean)
            found.append(Candidate(metric, weight, shift, 0.0))
        return found


def share_ranks(
    bench: Bench, weights: Sequence[tuple[WeightSlot, Tensor | FileMatrix]], budget: int
) -> dict[str, int]:
    """Give every weight the rank that serves the outputs best, within a budget for all together.

    Args:
        bench: the network on its data.
        weights: those to share between, each with its values; all must be fed.
        budget: most input-to-hidden parameters of all together.

    Returns:
        For each weight the rank of its two-mode ring; times I + O it is the weight's share of the parameters.

    Raises:
        UsageError: the budget does not allow rank 1 for each.
    """
    steps = {slot.name: slot.input_size + slot.output_size for slot, _ in weights}
    if budget < sum(steps.values()):
        raise UsageError(f"{budget:,} parameters do not allow rank 1 for each of {', '.join(steps)}")
    ladders = {slot.name: _ladder(bench, slot, dense, budget // steps[slot.name]) for slot, dense in weights}
    costs = {name: _cost(bench, ladder) for name, ladder in ladders.items()}
    ranks = _greedy(ladders, costs, budget)
    return _settle(bench, ladders, ranks, budget)


def shared_plan(ranks: Mapping[str, int], slots: Sequence[WeightSlot]) -> Plan:
    """The plan with these ranks: one two-mode ring a weight."""
    return Plan(tuple(replace(_rule(slot, ranks[slot.name]), layer=slot.name) for slot in slots))


def two_mode(slot: WeightSlot, rank: int) -> WeightPlan:
    """A weight as a product of two matrices."""
    return _rule(slot, rank).resolve(slot)


def _rule(slot: WeightSlot, rank: int) -> Rule:
    return Rule((slot.input_size,), (slot.output_size,), (1, rank))


def _ladder(bench: Bench, slot: WeightSlot, dense: Tensor | FileMatrix, highest: int) -> Ladder:
    network = bench.network
    moments = bench.moments(network.unit(slot.name))
    metrics: list[Metric] = candidates(moments, bench.sensitivity(slot.name), ridges=MIDDLE)
    source = matrices_of(two_mode(slot, 1), dense)[0]
    highest = min(highest, slot.input_size, slot.output_size)
    key = network.free_bias(slot.name)
    return Ladder(
        slot,
        dense,
        moments.mean,
        None if key is None else network.tensors[key].double(),
        {metric.name: two_mode_factors(source, highest, metric) for metric in metrics},
    )


def _cost(bench: Bench, ladder: Ladder) -> np.ndarray:
    """Difference of the outputs at every rank 0..highest, all other weights dense; it never rises."""
    unit = bench.network.unit(ladder.slot.name)

    def measured(rank: int) -> float:
        return min(bench.exam.score({unit.name: replaced(bench.network, unit, [one])}) for one in ladder.at(rank))

    looks = np.unique(np.geomspace(1, ladder.highest, LOOKS).round().astype(int))
    values = np.minimum.accumulate([max(measured(int(rank)), 1e-12) for rank in looks])
    return np.exp(np.interp(np.arange(ladder.highest + 1), looks, np.log(values)))


def _greedy(ladders: Mapping[str, Ladder], costs: Mapping[str, np.ndarray], budget: int) -> dict[str, int]:
    """Spend parameters where they lower the sum of costs most, looking ahead over flat stretches."""
    ranks = dict.fromkeys(ladders, 1)
    left = budget - sum(ladder.step for ladder in ladders.values())
    while True:
        best: tuple[float, str, int] | None = None
        for name, ladder in ladders.items():
            most = min(ladder.highest, ranks[name] + left // ladder.step)
            for rank in range(ranks[name] + 1, most + 1):
                gain = (costs[name][ranks[name]] - costs[name][rank]) / ((rank - ranks[name]) * ladder.step)
                if best is None or gain > best[0]:
                    best = gain, name, rank
        if best is None:
            return ranks
        left -= (best[2] - ranks[best[1]]) * ladders[best[1]].step
        ranks[best[1]] = best[2]


def _settle(bench: Bench, ladders: Mapping[str, Ladder], ranks: dict[str, int], budget: int) -> dict[str, int]:
    """Move ranks between pairs of weights as long as that brings the outputs of all together closer."""

    def joint(trial: Mapping[str, int]) -> float:
        return _together(bench, ladders, trial)

    best = joint(ranks)
    size = max(1, max(ranks.values()) // 4)
    while size:
        moved = False
        for giver, taker in permutations(ladders, 2):
            trial = _moved(ladders, ranks, giver, taker, size, budget)
            if trial and (score := joint(trial)) < best:
                ranks, best, moved = trial, score, True
        size = size if moved else size // 2
    return ranks


def _moved(
    ladders: Mapping[str, Ladder], ranks: Mapping[str, int], giver: str, taker: str, size: int, budget: int
) -> dict[str, int] | None:
    """Ranks after one weight gives `size` of them to another, or None where it cannot."""
    trial = dict(ranks)
    trial[giver] -= size
    spare = budget - sum(rank * ladders[name].step for name, rank in trial.items())
    gained = min(spare // ladders[taker].step, ladders[taker].highest - trial[taker])
    trial[taker] += gained
    return trial if trial[giver] >= 1 and gained >= 1 else None


def _together(bench: Bench, ladders: Mapping[str, Ladder], ranks: Mapping[str, int]) -> float:
    """Difference of the outputs with all weights at these ranks, under the metric that serves them best."""
    tried = {name: ladder.at(ranks[name]) for name, ladder in ladders.items()}
    return min(bench.joint([tried[name][k] for name in ladders]) for k in range(min(map(len, tried.values()))))
