"""A first `decompose` line for a checkpoint: balanced modes, moderate ranks. A start, not an optimum."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from math import isqrt, log, prod
from pathlib import Path

from trcompress.checkpoint.recurrent import RnnLayer
from trcompress.formats import TensorRing
from trcompress.model.grammar import format_shape
from trcompress.model.plan import ring_ranks

_TYPICAL_MODE = 5
_LARGEST_PRIME = 13  # a larger prime cannot be a mode of moderate size, so the size is padded instead
_SMOOTH = (2, 3, 5, 7)
_RANKS = (2, 16)
_SMALLEST_RATIO = 4


def suggest(path: Path, layers: Sequence[RnnLayer]) -> str:
    """Spell a `trcompress decompose` line that fits every layer.

    Args:
        path: the checkpoint.
        layers: from `read_checkpoint`.

    Returns:
        The line, quoted for a shell.
    """
    groups: dict[tuple[int, int, int], list[RnnLayer]] = {}
    for layer in layers:
        groups.setdefault((layer.input_size, layer.gates, layer.hidden_size), []).append(layer)
    words = ["trcompress", "decompose", str(path)]
    for (inputs, gates, hidden), members in groups.items():
        in_modes, out_modes = balanced_modes(inputs), balanced_modes(hidden)
        shape = format_shape(in_modes, out_modes)
        rank = moderate_rank(in_modes, (gates * out_modes[0], *out_modes[1:]), inputs * gates * hidden)
        for glob in _globs(members, layers) if len(groups) > 1 else [None]:
            words += (["--layer", glob] if glob else []) + ["--shape", shape, "--ranks", str(rank)]
    return shlex.join(words)


def balanced_modes(size: int) -> tuple[int, ...]:
    """Factor a size into modes of about 3 to 8; a size with a large prime in it is padded to the next smooth one.

    Example:
        >>> balanced_modes(57600), balanced_modes(256), balanced_modes(482)
        ((6, 6, 5, 5, 4, 4, 4), (8, 8, 4), (9, 6, 3, 3))
    """
    primes = _primes(size)
    if primes and primes[-1] > _LARGEST_PRIME:
        size = next(padded for padded in range(size, 2 * size) if _is_smooth(padded))
        primes = _primes(size)
    modes = [1] * max(1, round(log(size, _TYPICAL_MODE)))
    for prime in reversed(primes):
        modes[modes.index(min(modes))] *= prime
    return tuple(sorted((mode for mode in modes if mode > 1), reverse=True)) or (1,)


def moderate_rank(in_modes: Sequence[int], out_modes: Sequence[int], dense_parameters: int) -> int:
    """One rank for all bonds: a bottleneck a quarter as wide as the matrix, and at least 4x fewer values."""
    smallest, largest = _RANKS
    rank = max(smallest, min(largest, isqrt(min(prod(in_modes), prod(out_modes)) // 4)))
    while rank > 1 and _SMALLEST_RATIO * _count(in_modes, out_modes, rank) > dense_parameters:
        rank -= 1
    return rank


def _count(in_modes: Sequence[int], out_modes: Sequence[int], rank: int) -> int:
    ranks = ring_ranks((rank,), in_modes, out_modes)
    return TensorRing(tuple(in_modes), tuple(out_modes), ranks).parameters


def _globs(members: Sequence[RnnLayer], layers: Sequence[RnnLayer]) -> list[str]:
    """Name the members: by stack where they are all of it, else by key."""
    globs: list[str] = []
    for stack in dict.fromkeys(layer.stack for layer in members):
        mine = [layer for layer in members if layer.stack == stack]
        whole = stack and len(mine) == sum(layer.stack == stack for layer in layers)
        globs += [stack] if whole else [layer.keys["weight_ih"] for layer in mine]
    return globs


def _primes(size: int) -> list[int]:
    """Prime factors in rising order."""
    found, divisor = [], 2
    while divisor * divisor <= size:
        while size % divisor == 0:
            found.append(divisor)
            size //= divisor
        divisor += 1
    return [*found, size] if size > 1 else found


def _is_smooth(size: int) -> bool:
    for prime in _SMOOTH:
        while size % prime == 0:
            size //= prime
    return size == 1
