"""One thread for small matrices: where a product takes microseconds, threads only wait for each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from math import prod

from trcompress.decomposition.source import MatrixSource
from trcompress.util.threads import SMALL_VALUES, limited_threads


def fitting_threads(source: MatrixSource) -> AbstractContextManager[None]:
    """Compute with one thread where W is small.

    The same number of threads also means the same order of sums, so small results do not hang on the machine.
    """
    small = source.device.type == "cpu" and prod(source.shape) <= SMALL_VALUES
    return limited_threads(1 if small else None)
