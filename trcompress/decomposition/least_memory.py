"""What a fit needs in memory at least, known from its ranks alone: refused before a value is read."""

from __future__ import annotations

from math import prod

from trcompress.decomposition.tr_svd import is_lossless
from trcompress.errors import ShapeError
from trcompress.formats import TensorRing
from trcompress.util.figures import size
from trcompress.util.memory import available_bytes

FLOAT64 = 8


def least_bytes(ring: TensorRing, init: str) -> int:
    """Count the bytes that must be held at once to fit a ring and to measure its error.

    The two factors of W_hat, (I, K) and (K, O); for TR-ALS also K x K, and the normal equations of the largest core
    with their Cholesky factor.

    Example:
        >>> least_bytes(TensorRing((4, 3), (4, 2), (2, 2, 2, 2, 2)), "tr-svd")
        640
    """
    k = ring.bottleneck
    factors = FLOAT64 * k * (prod(ring.in_modes) + prod(ring.out_modes))
    if init != "tr-als" or is_lossless(ring):
        return factors
    unknowns = max(left * right for left, _, right in ring.core_shapes)
    return factors + FLOAT64 * (k * k + 2 * unknowns**2)


def check_memory(name: str, ring: TensorRing, init: str) -> None:
    """Refuse a ring whose fit cannot be held.

    Raises:
        ShapeError: the machine, or a limit on this process, has less room.
    """
    least, free = least_bytes(ring, init), available_bytes()
    if free is not None and least > free:
        ranks = ",".join(map(str, ring.ranks))
        raise ShapeError(
            f"{name}: the ranks must leave the fit room in memory: {ranks} take {size(least)} at least "
            f"(R0 * Rn = {ring.bottleneck:,}), {size(free)} are free; choose lower ones"
        )
