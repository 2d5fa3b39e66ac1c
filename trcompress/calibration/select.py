"""Candidates for one weight under several metrics, compared by what the network gives on held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from trcompress.calibration.bias import bias_shift
from trcompress.calibration.feeds import TokenFeed
from trcompress.calibration.metrics import MIDDLE, RIDGES, candidates
from trcompress.calibration.network import Network, Unit
from trcompress.calibration.outputs import Exam
from trcompress.calibration.solve import is_two_mode, ring_of, solve
from trcompress.decomposition import MatrixSource, Metric
from trcompress.decomposition.weight import CompressedWeight
from trcompress.model.grammar import format_shape
from trcompress.network.moments import InputMoments

GAIN_PLAIN = 0.95
"""Another candidate in the plain metric (a corrected bias, another structure) must have at most this share of the
first one's difference to be chosen instead."""
GAIN_TOKENS = 0.95
GAIN_VECTORS = 0.5
"""The same for candidates in other metrics, where tokens and where vectors are fed.

Tokens cannot take values that calibration did not see; vectors can. A sensor network under new people gained
nothing from metrics that lowered the difference on its training people by less than half, and often lost.
"""
EXACT = 1e-7
"""Differences below this are rounding."""
MOST_TRIED = 6
"""Candidates of a weight that are tried together with those of the others."""
SLOW_VALUES = 1 << 22
"""Values of a weight above which only one metric of each kind is tried for rings that take ALS."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to approximate a weight.

    Args:
        metric: its name.
        found: cores and plain error.
        bias: the corrected input bias, or None where it stays.
        score: how far the network's outputs move on held-out examples.
    """

    metric: str
    found: CompressedWeight
    bias: Tensor | None
    score: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Cores by key, float32."""
        return {f"{self.found.plan.name}.core.{k}": core.float() for k, core in enumerate(self.found.cores)}

    def row(self, measure: str, chosen: bool) -> dict[str, Any]:
        """Plain values for the report."""
        ring = ring_of(self.found.plan)
        return {
            "metric": self.metric,
            "shape": format_shape(ring.in_modes, ring.out_modes),
            "ranks": list(ring.ranks),
            "parameters": self.found.plan.parameters,
            "bias_corrected": self.bias is not None,
            "weight_error": self.found.error,
            "difference": self.score,
            "measure": measure,
            "chosen": chosen,
        }


@dataclass(frozen=True)
class Choice:
    """The candidates of one weight.

    Args:
        candidates: all, the plain one first.
        worthy: those that may be chosen, best first.
        chosen: the one to keep.
    """

    candidates: tuple[Candidate, ...]
    worthy: tuple[Candidate, ...]
    chosen: Candidate

    @property
    def plain(self) -> Candidate:
        """The plain metric's."""
        return self.candidates[0]

    def compressed(self, measure: str) -> CompressedWeight:
        """The chosen weight with the list of all candidates."""
        rows = tuple(one.row(measure, one is self.chosen) for one in self.candidates)
        init = self.chosen.found.init if self.chosen is self.plain else f"{self.chosen.found.init}, calibrated"
        return replace(self.chosen.found, candidates=rows, init=init)


def choose(
    network: Network,
    exam: Exam,
    plain: Sequence[CompressedWeight],
    dense: MatrixSource,
    moments: InputMoments,
    sensitivity: Tensor | None,
    *,
    seed: int = 0,
    quick: bool = False,
    tell: Callable[[str, float], None] | None = None,
) -> Choice:
    """Try every metric on one weight, all other weights dense.

    Args:
        network: the dense network.
        exam: held-out examples.
        plain: the weight decomposed in the plain metric, in one structure or several.
        dense: W (I, G*H).
        moments: of its inputs.
        sensitivity: of its gates.
        seed: of random starts.
        quick: try one metric of each kind, each for a short time: to compare structures, not to keep the cores.
        tell: called with (what, fraction done).
    """
    unit = network.unit(plain[0].plan.name)
    tried: list[Candidate] = []
    for number, one in enumerate(plain):
        closed = is_two_mode(one.plan) and not one.plan.per_gate
        few = quick or (not closed and one.plan.matrix.parameters > SLOW_VALUES)
        metrics = candidates(moments, sensitivity, ridges=MIDDLE if few else RIDGES, jointly=closed)
        for done, metric in enumerate(metrics):
            if tell:
                tell(metric.name, (number + done / len(metrics)) / len(plain))
            found = solve(one, dense, metric, seed=seed, quick=quick) if done else one
            tried += _scored(network, exam, unit, metric, found, dense, moments.mean)
    worthy = rank(tried, least_gain(network, unit))
    return Choice(tuple(tried), tuple(worthy), worthy[0])


def rank(tried: Sequence[Candidate], least: float) -> list[Candidate]:
    """The candidates that may be chosen, best first; the first of `tried` is what the others must beat.

    Among candidates that are exact, those that leave the bias alone come first.
    """
    base = tried[0]

    def worthy(one: Candidate) -> bool:
        gain = GAIN_PLAIN if one.metric == base.metric else least
        return one is base or one.score <= max(gain * base.score, EXACT)

    found = [one for one in tried if worthy(one)]
    return sorted(found, key=lambda one: (max(one.score, EXACT), one.bias is not None, one.score))


def settle(choices: Sequence[Choice], joint: Callable[[Sequence[Candidate]], float]) -> tuple[list[Choice], float]:
    """Let the choices for single weights answer to each other: what is best alone need not be best together.

    Args:
        choices: one for each weight.
        joint: the difference with all these candidates in place.

    Returns:
        The choices, and their difference together.
    """
    chosen = [choice.chosen for choice in choices]
    best = joint(chosen)
    if len(choices) > 1:
        plain = [choice.plain for choice in choices]
        if (score := joint(plain)) < best:
            chosen, best = plain, score
        for place, choice in enumerate(choices):
            for one in choice.worthy[:MOST_TRIED]:
                trial = [*chosen[:place], one, *chosen[place + 1 :]]
                if one is not chosen[place] and (score := joint(trial)) < best:
                    chosen, best = trial, score
    return [replace(choice, chosen=one) for choice, one in zip(choices, chosen, strict=True)], best


def replaced(network: Network, unit: Unit, chosen: Sequence[Candidate]) -> nn.Module:
    """A unit with these weights (one for each direction, or fewer) in place of the dense ones."""
    tensors, plans = dict(network.tensors), {}
    for one in chosen:
        name = one.found.plan.name
        tensors |= one.tensors
        plans[name] = one.found.plan
        key = network.free_bias(name)
        if one.bias is not None and key is not None:
            tensors[key] = one.bias.float()
    return unit.build(tensors, plans).requires_grad_(False)


def _scored(
    network: Network,
    exam: Exam,
    unit: Unit,
    metric: Metric,
    found: CompressedWeight,
    dense: MatrixSource,
    mean: Tensor,
) -> list[Candidate]:
    """A candidate as it is, and with its bias corrected."""
    biases: list[Tensor | None] = [None]
    key = network.free_bias(found.plan.name)
    if key is not None:
        biases.append(network.tensors[key].double() + bias_shift(found.plan, dense, found.cores, mean))
    scored = []
    for bias in biases:
        one = Candidate(metric.name, found, bias, 0.0)
        score = exam.score({unit.name: replaced(network, unit, [one])})
        scored.append(replace(one, score=score))
    return scored


def least_gain(network: Network, unit: Unit) -> float:
    """The share of the plain difference that must be reached to leave the plain metric, by what the unit is fed."""
    fed_tokens = unit.below is None and isinstance(network.data.feeds[unit.stack], TokenFeed)
    return GAIN_TOKENS if fed_tokens else GAIN_VECTORS
