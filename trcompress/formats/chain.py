"""Open chains of cores: the algebra that rings and trains share.

A core is `(..., r, n, r')`. Leading dimensions are a batch (one ring per gate), carried by broadcasting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def join(left: Tensor, right: Tensor) -> Tensor:
    """Contract the bond between two cores: (..., a, p, b), (..., b, q, c) -> (..., a, p*q, c)."""
    a, p, b = left.shape[-3:]
    q, c = right.shape[-2:]
    product = left.reshape(*left.shape[:-3], a * p, b) @ right.reshape(*right.shape[:-3], b, q * c)
    return product.reshape(*product.shape[:-2], a, p * q, c)


def merge(cores: Sequence[Tensor]) -> Tensor:
    """Merge an open chain into one core `(..., r_first, n_1*...*n_k, r_last)`, in the cheapest order.

    Returns:
        The merged core; its middle index runs over the modes row-major, the first mode slowest.
    """
    if len(cores) == 1:
        return cores[0]
    shapes = [(core.shape[-3], core.shape[-2], core.shape[-1]) for core in cores]
    split = merge_order(shapes)[1]
    return join(merge(cores[:split]), merge(cores[split:]))


def merge_order(shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """Find the cheapest place for the last join of a chain (matrix-chain dynamic programme).

    Returns:
        (multiply-adds of merging the whole chain, cores left of the last join).

    Example:
        >>> merge_order([(2, 3, 4), (4, 5, 6)])
        (720, 1)
    """
    d = len(shapes)
    modes = [1]
    for shape in shapes:
        modes.append(modes[-1] * shape[1])  # of the cores before each, so that any span is a quotient
    best = {(a, a + 1): (0, 0) for a in range(d)}
    for width in range(2, d + 1):
        for a in range(d - width + 1):
            b = a + width
            ends = shapes[a][0] * (modes[b] // modes[a]) * shapes[b - 1][2]
            options = [(best[a, s][0] + best[s, b][0] + ends * shapes[s][0], s - a) for s in range(a + 1, b)]
            best[a, b] = min(options)
    return best[0, d]
