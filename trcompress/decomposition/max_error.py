"""TR-SVD driven by an error instead of ranks: the smallest ring it can find that is close enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isqrt, prod
from typing import Any

import torch
from torch import Tensor

from trcompress.decomposition.factors import leading_factors
from trcompress.decomposition.linalg import svd
from trcompress.decomposition.metric import Metric
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.result import Decomposition
from trcompress.decomposition.run import decompose
from trcompress.decomposition.source import InMemoryMatrix, MatrixSource
from trcompress.decomposition.tr_svd import open_chains, tr_svd
from trcompress.decomposition.tt_svd import possible_ranks
from trcompress.errors import UsageError
from trcompress.formats import TensorRing

SHARES = (0.3, 0.6, 0.9, 1.0)
"""Shares of the squared error that the cut between inputs and outputs may use up; the bonds inside get the rest."""
FULL = 1 << 60


@dataclass(frozen=True)
class _Split:
    """One way to deal K singular directions out to the two closing bonds, with the tails of every bond inside."""

    ring: TensorRing
    tails: tuple[Tensor, ...]
    left_over: float

    def ranks_for(self, budget: float) -> TensorRing:
        """Return the ring whose bonds inside each discard at most their part of `budget`, a squared norm."""
        each = budget / max(1, len(self.tails))
        found = iter([max(1, int((tail > each).sum())) for tail in self.tails])
        n, d = len(self.ring.in_modes), len(self.ring.modes)
        ranks = [rank if k in (0, n, d) else next(found) for k, rank in enumerate(self.ring.ranks)]
        return TensorRing(self.ring.in_modes, self.ring.out_modes, tuple(ranks))


def tr_svd_max_error(
    source: MatrixSource | Tensor,
    in_modes: Sequence[int],
    out_modes: Sequence[int],
    max_error: float,
    *,
    metric: Metric | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> tuple[TensorRing, Decomposition]:
    """Pick the ranks by the error they may cost, with singular value decompositions alone.

    Args:
        source: W (I, O) as a MatrixSource, or the weight (O, I) as PyTorch stores it.
        in_modes: input modes; their product may exceed I.
        out_modes: output modes; their product may exceed O.
        max_error: relative error not to exceed, above 0 and below 1; in the metric, where one is given.
        metric: the norm; None is the plain one.
        device: where to compute.
        options: passed on to `decompose`: `progress`.

    Returns:
        The ring with the fewest parameters among those tried, and its decomposition.

    Raises:
        UsageError: `max_error` is not between 0 and 1.

    Example:
        >>> ring, found = tr_svd_max_error(torch.ones(8, 12), (4, 3), (4, 2), 0.1)
        >>> ring.ranks, found.error < 0.1
        ((1, 1, 1, 1, 1), True)
    """
    if not 0 < max_error < 1:
        raise UsageError(f"max_error must lie between 0 and 1: got {max_error}; 0.1 allows an error of 10 %")
    inner = InMemoryMatrix(source, device) if isinstance(source, Tensor) else source
    largest = min(prod(in_modes), prod(out_modes), *inner.shape)
    ones = [1] * (len(in_modes) + len(out_modes) - 1)
    whole = TensorRing(tuple(in_modes), tuple(out_modes), (1, *ones, 1))
    objective = Objective(inner, whole, metric)
    allowed = max_error**2 * objective.squared_norm
    left, right = leading_factors(objective, largest)
    best: TensorRing | None = None
    for split in _splits(objective, left, right, allowed):
        if best is None or split.ranks_for(split.left_over).parameters < best.parameters:
            ring = _verified(objective, split, allowed)
            if best is None or ring.parameters < best.parameters:
                best = ring
    return best, decompose(inner, best, init="tr-svd", metric=metric, **options)  # type: ignore[arg-type,return-value]


def _splits(objective: Objective, left: Tensor, right: Tensor, allowed: float) -> Iterator[_Split]:
    """Candidates, for several shares of the error and several (R0, Rn), the most promising first."""
    squares = _contributions(objective, left, right)
    tails = squares.flip(0).cumsum(0).flip(0)  # what is lost where the first k directions are kept
    found: list[tuple[int, int, _Split]] = []
    for share in SHARES:
        k = max(1, int((tails > share * allowed).sum()))
        lost = float(tails[k]) if k < len(tails) else 0.0
        for r0 in _outer_ranks(k):
            split = _split(objective, left[:, :k], right[:k], r0, allowed - lost)
            found.append((split.ranks_for(split.left_over).parameters, len(found), split))
    for _, _, split in sorted(found, key=lambda one: one[:2])[:6]:
        yield split


def _contributions(objective: Objective, left: Tensor, right: Tensor) -> Tensor:
    """What every direction adds to the squared norm, in the metric."""
    image = left if objective.moment is None else objective.moment.apply(left.unsqueeze(0)).squeeze(0)
    weights = (left * image).sum(0)
    scaled = right if objective.scales is None else right * objective.scales
    return weights * scaled.square().sum(1)


def _outer_ranks(k: int) -> list[int]:
    """Values of R0 worth trying for a bottleneck of k, small and large."""
    small = sorted({r for r in (1, 2, 3, 4, 6, 8, 12, 16, isqrt(k)) if r * r <= k})
    return sorted({*small, *(ceil(k / r) for r in small)})


def _split(objective: Objective, left: Tensor, right: Tensor, r0: int, left_over: float) -> _Split:
    whole, k = objective.ring, left.shape[1]
    rn, n = ceil(k / r0), len(whole.in_modes)
    ring = TensorRing(
        whole.in_modes,
        whole.out_modes,
        tuple(r0 if i in (0, len(whole.modes)) else rn if i == n else FULL for i in range(len(whole.modes) + 1)),
    )
    values = (left.square().sum(0) * right.square().sum(1)).sqrt()
    a, b = open_chains(ring, _scaled(left, values, 0), _scaled(right, values, 1))
    tails = [*_bond_tails(a, whole.in_modes), *_bond_tails(b, whole.out_modes)]
    return _Split(ring, tuple(tails), left_over)


def _scaled(factor: Tensor, values: Tensor, dim: int) -> Tensor:
    """Give the directions of a factor the norms `values`."""
    norms = factor.norm(dim=dim)
    return factor * (values / torch.where(norms > 0, norms, torch.ones_like(norms))).unsqueeze(dim)


def _bond_tails(chain: Tensor, modes: Sequence[int]) -> Iterator[Tensor]:
    """For every bond inside a merged chain (a, N, b): the squared norm lost where its first r values are kept."""
    a, _, b = chain.shape
    for k in range(1, len(modes)):
        values = svd(chain.reshape(a * prod(modes[:k]), prod(modes[k:]) * b))[1]
        yield values.square().flip(0).cumsum(0).flip(0)


def _verified(objective: Objective, split: _Split, allowed: float) -> TensorRing:
    """Ranks that keep to the error when measured: the tails only estimate it."""
    budget = split.left_over
    for _ in range(8):
        ring = split.ranks_for(budget)
        other = objective.with_ring(ring)
        if other.squared_error(tr_svd(other)[0]) <= allowed:
            return ring
        budget *= 0.6
    n = len(split.ring.in_modes)
    inputs = possible_ranks(split.ring.in_modes, split.ring.ranks[: n + 1])
    outputs = possible_ranks(split.ring.out_modes, split.ring.ranks[n:])
    return TensorRing(split.ring.in_modes, split.ring.out_modes, (*inputs, *outputs[1:]))
