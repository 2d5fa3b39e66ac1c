"""How many threads PyTorch computes with, for a while: sums depend on it, and what is chosen by sums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

SMALL_VALUES = 1 << 20
"""Values of a matrix up to which one thread is at least as fast as two."""
LARGE_THREADS = 2
"""Threads for larger ones, on any machine: twice as many as there are cores take three times as long in products of
some hundred columns, and MKL uses fewer than it is told where there are fewer cores."""


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads; the number before is restored however the body ends.

    Args:
        count: threads of PyTorch; None: as they are.

    Example:
        >>> with limited_threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)  # also where it says so: OpenMP and MKL may have been told different numbers
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def same_threads(sizes: Iterable[int]) -> AbstractContextManager[None]:
    """Compute with a number of threads that depends on the sizes of the matrices alone, never on the machine.

    Threads divide sums, and another division rounds in another way: with as many threads as the machine has, the
    same call would choose other cores on another machine.

    Args:
        sizes: values of each matrix.

    Example:
        >>> with same_threads([768 * 256]):
        ...     torch.get_num_threads()
        1
    """
    return limited_threads(1 if max(sizes, default=0) <= SMALL_VALUES else LARGE_THREADS)
