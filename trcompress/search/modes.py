"""Factorisations of a size into modes, for the planner to choose from. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import ceil, log2, prod


def mode_choices(size: int, *, keep: int = 2, pad: float = 0.05, most: int | None = None) -> list[tuple[int, ...]]:
    """List good ways to write a size as a product of modes, the fewest modes first.

    Sizes without small factors are padded: the product may exceed the size by up to `pad`, or by what the next
    product of small factors asks where nothing lies closer.

    Args:
        size: what the modes must multiply to, at least.
        keep: choices per number of modes, those with the smallest sum of modes (fewest parameters) first.
        pad: share by which the product may exceed the size where that shortens the modes.
        most: largest number of modes; by default as many as keep every mode at 3 or more, up to 8.

    Returns:
        Tuples of modes in descending order, each with modes of 2 or more; `(size,)` always first.

    Example:
        >>> mode_choices(256, keep=1)
        [(256,), (16, 16), (8, 8, 4), (4, 4, 4, 4), (4, 4, 4, 2, 2), (4, 4, 2, 2, 2, 2)]
        >>> mode_choices(241, keep=1)[1]
        (19, 13)
    """
    most = most or max(1, min(8, ceil(log2(max(size, 2)) / log2(3))))
    choices: list[tuple[int, ...]] = [(size,)]
    for count in range(2, most + 1):
        ranked = sorted(_candidates(size, count, pad), key=lambda modes: (sum(modes), prod(modes)))
        choices += ranked[:keep]
    return choices


def _candidates(size: int, count: int, pad: float) -> set[tuple[int, ...]]:
    """Factorisations with `count` modes of the size itself and of the padded sizes that are worth it."""
    exact = set(factorizations(size, count))
    balanced = count * size ** (1 / count)
    if 2 * count > 1.35 * balanced or any(sum(modes) <= 1.35 * balanced for modes in exact):
        return exact  # modes are 2 at least: of a small size many are never near its balanced ones
    limit = max(int(size * (1 + pad)), size + 4)
    padded: set[tuple[int, ...]] = set()
    while not padded:
        padded = {
            modes
            for product in range(size + 1, limit + 1)
            for modes in factorizations(product, count)
            if sum(modes) <= 1.35 * balanced
        }
        limit *= 2
    return exact | padded


def factorizations(size: int, count: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write `size` as `count` modes of 2 or more, in descending order."""
    return iter(_factorizations(size, count, size))


@cache
def _factorizations(size: int, count: int, largest: int) -> tuple[tuple[int, ...], ...]:
    if count == 1:
        return ((size,),) if 2 <= size <= largest else ()
    found = []
    for divisor in _divisors(size):
        if 2 <= divisor <= largest and divisor**count >= size:
            found += [(divisor, *rest) for rest in _factorizations(size // divisor, count - 1, divisor)]
    return tuple(found)


@cache
def _divisors(size: int) -> tuple[int, ...]:
    small = [d for d in range(1, int(size**0.5) + 1) if size % d == 0]
    return tuple(sorted({*small, *(size // d for d in small)}))
