"""One thread for small matrices: where a product takes microseconds, threads only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch

from trcompress.decompose.source import MatrixSource

SMALL_VALUES = 1 << 20
"""Values of W up to which one thread is at least as fast as two."""


@contextmanager
def fitting_threads(source: MatrixSource) -> Iterator[None]:
    """Compute with one thread where W is small; the number of threads is restored however the body ends.

    The same number of threads also means the same order of sums, so small results do not hang on the machine.
    """
    before = torch.get_num_threads()
    small = source.device.type == "cpu" and prod(source.shape) <= SMALL_VALUES
    if small and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
