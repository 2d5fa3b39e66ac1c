"""Rings of given modes that fit a budget of parameters: how to spend it on bonds. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt, prod

from trcompress.formats import TensorRing

Modes = tuple[int, ...]


def rings_within(in_modes: Modes, out_modes: Modes, budget: int, above: int = 0) -> Iterator[TensorRing]:
    """Yield rings of these modes that spend the budget in different ways.

    The bottleneck K = R0 * Rn bounds the matrix rank, the inner ranks how freely the two halves can be chosen;
    every K of a geometric grid is tried with the largest inner ranks that still fit.

    Args:
        in_modes: input modes.
        out_modes: output modes, gates folded in.
        budget: most parameters a ring may have.
        above: only rings with a bottleneck wider than this.

    Example:
        >>> [ring.ranks for ring in rings_within((6,), (8,), 60)]
        [(1, 1, 1), (1, 2, 1), (1, 3, 1), (1, 4, 1), (2, 2, 2)]
    """
    widest = min(prod(in_modes), prod(out_modes))
    seen = set()
    for k in _grid(above + 1, widest):
        for r0 in dict.fromkeys((1, isqrt(k), max(1, isqrt(k) // 2))):
            ring = _widest_inner(in_modes, out_modes, r0, k // r0, budget)
            if ring is not None and ring.bottleneck > above and ring.ranks not in seen:
                seen.add(ring.ranks)
                yield ring


def neighbours(ring: TensorRing, budget: int) -> Iterator[TensorRing]:
    """Yield the rings one step away within the budget: a rank raised, paid for by lowering another if need be."""
    for up in range(len(ring.modes)):
        raised = _with_rank(ring, up, +1)
        if raised.parameters <= budget:
            yield raised
            continue
        for down in range(len(ring.modes)):
            if down != up and raised.ranks[down] > 1:
                swapped = _with_rank(raised, down, -1)
                if swapped.parameters <= budget:
                    yield swapped


def clamp(in_modes: Modes, out_modes: Modes, ranks: Sequence[int]) -> TensorRing:
    """Lower the inner ranks to what their half of the ring can use: more would be parameters without effect."""
    n, d = len(in_modes), len(in_modes) + len(out_modes)
    modes = (*in_modes, *out_modes)
    found = list(ranks)
    for first, last in ((0, n), (n, d)):
        for k in range(first + 1, last):
            found[k] = min(found[k], found[k - 1] * modes[k - 1])
        for k in range(last - 1, first, -1):
            found[k] = min(found[k], found[k + 1] * modes[k])
    return TensorRing(in_modes, out_modes, tuple(found))


def _grid(first: int, last: int) -> Iterator[int]:
    """Whole numbers from first to last, each about half above the one before."""
    k = first
    while k <= last:
        yield k
        k = max(k + 1, k * 3 // 2)


def _widest_inner(in_modes: Modes, out_modes: Modes, r0: int, rn: int, budget: int) -> TensorRing | None:
    low, high, best = 1, max(2, isqrt(budget)), None
    while low <= high:
        inner = (low + high) // 2
        ranks = (r0, *[inner] * (len(in_modes) - 1), rn, *[inner] * (len(out_modes) - 1), r0)
        ring = clamp(in_modes, out_modes, ranks)
        if ring.parameters <= budget:
            best, low = ring, inner + 1
        else:
            high = inner - 1
    return best


def _with_rank(ring: TensorRing, bond: int, change: int) -> TensorRing:
    ranks = list(ring.ranks)
    ranks[bond] += change
    ranks[-1] = ranks[0]
    return TensorRing(ring.in_modes, ring.out_modes, tuple(ranks))
