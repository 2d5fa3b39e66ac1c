"""What every rank of a weight costs at the network's outputs: one decomposition a metric, a few looks between.

The metric-optimal factors of a weight are nested: those of rank K are the first K columns of those of a higher
rank. So one decomposition per weight and metric gives every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from trcompress.calibration.live import LiveNetwork
from trcompress.calibration.metrics import MIDDLE
from trcompress.calibration.select import Candidate, joint_distance, metrics_of
from trcompress.calibration.solve import calibrated_ring
from trcompress.decomposition import MatrixSource
from trcompress.decomposition.tr_svd import split_halves
from trcompress.decomposition.weight import CompressedWeight, gate_sources
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Rule
from trcompress.model.weight_plan import WeightPlan

KEPT_METRICS = 2
"""Metrics that are followed over all ranks: those that do best at a middle one."""
LEAST = 1e-12
"""Distances below this are none."""


@dataclass(frozen=True)
class TwoModeWeight:
    """One weight at every rank of a product of two matrices, under several metrics.

    Args:
        matrix: the weight.
        mean: (I,) of its inputs.
        given: (O,) W' mean.
        bias: its input bias in float64, or None where it must not change.
        factors: A (I, K) and B (K, O) for each metric tried, the highest rank.
    """

    matrix: Matrix
    mean: Tensor
    given: Tensor
    bias: Tensor | None
    factors: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def highest(self) -> int:
        """The highest rank there is."""
        return max(len(right) for _, right in self.factors.values())

    def at(self, rank: int, metric: str) -> Candidate:
        """The weight at one rank under a metric, its bias corrected."""
        plan = two_mode(self.matrix, rank)
        left, right = self.factors[metric]
        left, right = _widened(left[:, :rank], right[:rank], rank)
        cores = tuple(split_halves(calibrated_ring(plan), left, right))
        bias = None if self.bias is None else self.bias + self.given - (self.mean @ left) @ right
        return Candidate(metric, CompressedWeight(plan, cores, 0.0, 0.0, "tr-svd", ()), bias, 0.0)


@dataclass(frozen=True)
class RankCurve:
    """What a weight costs at the outputs at every rank, all other weights dense.

    Args:
        values: by rank, from 0; they never rise.
        metrics: the best one by rank.
    """

    values: np.ndarray
    metrics: tuple[str, ...]


def two_mode(matrix: Matrix, rank: int) -> WeightPlan:
    """Build a weight as a product of two matrices."""
    return Rule((matrix.columns,), (matrix.rows,), (1, rank)).resolve(matrix)


def two_mode_weight(live: LiveNetwork, matrix: Matrix, source: MatrixSource, highest: int) -> TwoModeWeight:
    """Decompose a weight once in each metric, up to a rank."""
    (whole,) = gate_sources(two_mode(matrix, 1), source)
    highest = min(highest, matrix.columns, matrix.rows)
    factors = {
        metric.name: live.factors.find(matrix.key, whole, metric, highest)
        for metric in metrics_of(live, matrix.key, ridges=MIDDLE)
    }
    mean = live.moments(matrix.key).mean
    given = whole.transpose_times(mean.unsqueeze(1)).squeeze(1)
    return TwoModeWeight(matrix, mean, given, live.bias(matrix.key), factors)


def rank_curve(live: LiveNetwork, weight: TwoModeWeight, looks: int) -> RankCurve:
    """Measure the distance of the outputs at some ranks, the middle one under every metric."""

    def measured(rank: int, metric: str) -> float:
        return max(joint_distance(live, [weight.at(rank, metric)], brief=True), LEAST)

    ranks = [int(rank) for rank in np.unique(np.geomspace(1, weight.highest, looks).round())]
    middle = ranks.pop(len(ranks) // 2)
    first = {metric: measured(middle, metric) for metric in weight.factors}
    kept = sorted(first, key=first.__getitem__)[:KEPT_METRICS]
    seen = {middle: (first[kept[0]], kept[0])}
    seen |= {rank: min((measured(rank, metric), metric) for metric in kept) for rank in ranks}
    order = sorted(seen)
    falling = np.minimum.accumulate([seen[rank][0] for rank in order])
    values = np.exp(np.interp(np.arange(weight.highest + 1), order, np.log(falling)))
    nearest = [min(order, key=lambda look: abs(look - rank)) for rank in range(weight.highest + 1)]
    return RankCurve(values, tuple(seen[look][1] for look in nearest))


def _widened(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Fill up with zeros where fewer columns are exact."""
    missing = rank - len(right)
    if missing <= 0:
        return left, right
    return pad(left, (0, missing)), pad(right, (0, 0, 0, missing))
