"""Candidates for one weight under several metrics, compared by what the network gives on held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from trcompress.calibration.bias import bias_shift
from trcompress.calibration.live import LiveNetwork
from trcompress.calibration.metrics import MIDDLE, RIDGES, candidates
from trcompress.calibration.solve import calibrated_ring, is_two_mode, solve, solve_by_tokens
from trcompress.calibration.token_weights import NAME as TOKENS
from trcompress.decomposition import MatrixSource, Metric
from trcompress.decomposition.weight import CompressedWeight
from trcompress.model.grammar import format_shape
from trcompress.network.batches import device_of
from trcompress.network.layerwise import Substitute

GAIN_PLAIN = 0.95
"""Another candidate in the plain metric (a corrected bias, another structure) must have at most this share of the
first one's distance to be chosen instead."""
GAIN_TOKENS = 0.95
GAIN_VECTORS = 0.5
"""The same for candidates in other metrics, where tokens and where vectors are fed.

Tokens cannot take values that calibration did not see; vectors can. A sensor network under new people gained
nothing from metrics that lowered the distance on its training people by less than half, and often lost.
"""
EXACT = 1e-7
"""Distances below this are rounding."""
ROUNDS = 2
"""How often each weight's candidates are tried beside those of the others."""
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
    def key(self) -> str:
        """The weight's key."""
        return self.found.plan.name

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A (I, K) and B (K, G*H) in float32."""
        left, right = self.found.plan.factors([core.double() for core in self.found.cores])
        return left.float(), right.float()

    def substitute(self, live: LiveNetwork) -> Substitute:
        """What takes the weight's place in the network."""
        device = device_of(live.model)
        dtype = live.model.get_parameter(live.names[self.key]).dtype
        left, right = (one.to(device, dtype) for one in self.factors)
        bias = None if self.bias is None else self.bias.to(device, dtype)
        if left.numel() + right.numel() < self.found.plan.matrix.parameters:
            return Substitute.of_factors(left, right, bias)
        return Substitute((left @ right).t().contiguous(), None, bias)

    def without_cores(self) -> Candidate:
        """What the report tells of it, without the values."""
        return replace(self, found=replace(self.found, cores=()))

    def row(self, measure: str, chosen: bool) -> dict[str, Any]:
        """Plain values for the report."""
        ring = calibrated_ring(self.found.plan)
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
        candidates: all, the plain one first; those that are neither it nor eligible have lost their cores.
        eligible: the best of those that may be chosen, best first.
        chosen: the one to keep.
    """

    candidates: tuple[Candidate, ...]
    eligible: tuple[Candidate, ...]
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


def choose_metric(
    live: LiveNetwork,
    plain: Sequence[CompressedWeight],
    source: MatrixSource,
    *,
    quick: bool = False,
    tell: Callable[[str, float], None] | None = None,
) -> Choice:
    """Try every metric on one weight, all other weights dense.

    Args:
        live: the dense network.
        plain: the weight decomposed in the plain metric, in one structure or several.
        source: W (I, G*H).
        quick: try one metric of each kind, each for a short time: to compare structures, not to keep the cores.
        tell: called with (what, fraction done).
    """
    key = plain[0].plan.name
    tried: list[Candidate] = []
    for number, one in enumerate(plain):
        closed = is_two_mode(one.plan) and not one.plan.per_gate
        few = quick or (not closed and one.plan.matrix.parameters > SLOW_VALUES)
        metrics = metrics_of(live, key, ridges=MIDDLE if few else RIDGES, jointly=closed)
        for done, metric in enumerate(metrics):
            if tell:
                tell(metric.name, (number + done / len(metrics)) / len(plain))
            if not done:
                tried += [_scored(live, metric, one, None, quick), *_corrected(live, metric, one, source, quick)]
                continue
            found = solve(one, source, metric, seed=live.seed, quick=quick, factors=live.factors)
            tried += _better_mean(live, metric, found, source, quick)
        tokens = getattr(live.sensitivity(key), "tokens", None)
        whole = one.plan.padded_hidden == one.plan.matrix.gate_rows
        if closed and whole and tokens is not None and not quick:
            found = solve_by_tokens(one, source, tokens)
            tried += _better_mean(live, Metric(name=TOKENS), found, source, quick)
    if not quick:
        tried += _uncorrected(live, tried)
    eligible = rank(tried, least_gain(live, key))[:MOST_TRIED]
    kept = {id(one) for one in (tried[0], *eligible)}
    rows = (one if id(one) in kept else one.without_cores() for one in tried)
    return Choice(tuple(rows), tuple(eligible), eligible[0])


def metrics_of(live: LiveNetwork, key: str, ridges: Sequence[float], jointly: bool = True) -> list[Metric]:
    """Return the metrics to try for one weight, the plain one first."""
    return candidates(live.moments(key), live.sensitivity(key), ridges=ridges, jointly=jointly)


def rank(tried: Sequence[Candidate], least: float) -> list[Candidate]:
    """Return the candidates that may be chosen, best first; the first of `tried` is what the others must beat.

    Among candidates that are exact, those that leave the bias alone come first.
    """
    base = tried[0]

    def may_be_chosen(one: Candidate) -> bool:
        gain = GAIN_PLAIN if one.metric == base.metric else least
        return one is base or one.score <= max(gain * base.score, EXACT)

    found = [one for one in tried if may_be_chosen(one)]
    return sorted(found, key=lambda one: (max(one.score, EXACT), one.bias is not None, one.score))


def choose_jointly(
    choices: Sequence[Choice], joint: Callable[[Sequence[Candidate]], float]
) -> tuple[list[Choice], float]:
    """Let the choices for single weights answer to each other: what is best alone need not be best together.

    Args:
        choices: one for each weight.
        joint: the distance with all these candidates in place.

    Returns:
        The choices, and their distance together.
    """
    chosen = [choice.chosen for choice in choices]
    best = joint(chosen)
    if len(choices) > 1:
        plain = [choice.plain for choice in choices]
        if (score := joint(plain)) < best:
            chosen, best = plain, score
        for place, choice in [*enumerate(choices)] * ROUNDS:
            for one in choice.eligible:
                trial = [*chosen[:place], one, *chosen[place + 1 :]]
                if one is not chosen[place] and (score := joint(trial)) < best:
                    chosen, best = trial, score
    return [replace(choice, chosen=one) for choice, one in zip(choices, chosen, strict=True)], best


def joint_distance(live: LiveNetwork, chosen: Sequence[Candidate], brief: bool = False) -> float:
    """Return the held-out distance with all these weights in place."""
    return live.distance({live.names[one.key]: one.substitute(live) for one in chosen}, brief)


def least_gain(live: LiveNetwork, key: str) -> float:
    """The share of the plain distance that must be reached to leave the plain metric, by what the weight is fed."""
    return GAIN_TOKENS if live.is_fed_tokens(key) else GAIN_VECTORS


def _better_mean(
    live: LiveNetwork, metric: Metric, found: CompressedWeight, source: MatrixSource, brief: bool
) -> list[Candidate]:
    """A candidate with its bias corrected, or as it is where there is no bias to correct."""
    return _corrected(live, metric, found, source, brief) or [_scored(live, metric, found, None, brief)]


def _corrected(
    live: LiveNetwork, metric: Metric, found: CompressedWeight, source: MatrixSource, brief: bool
) -> list[Candidate]:
    """A candidate with its bias corrected, where it has one."""
    own = live.bias(found.plan.name)
    if own is None:
        return []
    bias = own + bias_shift(found.plan, source, found.cores, live.moments(found.plan.name).mean)
    return [_scored(live, metric, found, bias, brief)]


def _uncorrected(live: LiveNetwork, tried: Sequence[Candidate]) -> list[Candidate]:
    """The best candidate in another metric than the plain one, with its bias as it was."""
    others = [one for one in tried if one.metric != tried[0].metric and one.bias is not None]
    if not others:
        return []
    best = min(others, key=lambda one: one.score)
    return [replace(best, bias=None, score=joint_distance(live, [replace(best, bias=None)]))]


def _scored(
    live: LiveNetwork, metric: Metric, found: CompressedWeight, bias: Tensor | None, brief: bool
) -> Candidate:
    one = Candidate(metric.name, found, bias, 0.0)
    return replace(one, score=joint_distance(live, [one], brief))
