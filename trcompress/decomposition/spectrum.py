"""Singular values and leading right singular vectors of W, from one or few passes over it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trcompress.decomposition.linalg import eigh, svd
from trcompress.decomposition.source import MatrixSource

EXACT_WORK = 4e9
"""I * O * min(I, O) up to which W is factorised itself instead of its Gram matrix, which keeps half the digits."""

EXACT_VALUES = 1 << 23
"""Values of W up to which it is: a factorisation holds several copies."""


@dataclass(frozen=True)
class Spectrum:
    """What a singular value decomposition tells of W.

    Args:
        values: singular values, descending, (min(I, O),) float64.
        right: the right singular vectors (O, min(I, O)), or None where the smaller side is the rows.
        left: the left singular vectors (I, min(I, O)), or None where the smaller side is the columns.
    """

    values: Tensor
    right: Tensor | None
    left: Tensor | None

    def tail(self, rank: int) -> float:
        """Norm of what a rank-`rank` approximation cannot reach."""
        return float(self.values[rank:].square().sum().sqrt())


def spectrum(source: MatrixSource) -> Spectrum:
    """Return the singular values and vectors of W; computed once for a source, then remembered."""
    known = source.__dict__.get("_spectrum")
    if known is None:
        known = source.__dict__["_spectrum"] = _exact(source) if is_small(source) else _from_gram(source)
    return known


def is_small(source: MatrixSource) -> bool:
    """Return True where W is small enough to be factorised itself, in float64."""
    values = source.shape[0] * source.shape[1]
    return values <= EXACT_VALUES and values * min(source.shape) <= EXACT_WORK


def _exact(source: MatrixSource) -> Spectrum:
    u, s, vh = svd(source.dense())
    tall = source.shape[0] >= source.shape[1]
    return Spectrum(s, vh.t() if tall else None, None if tall else u)


def _from_gram(source: MatrixSource) -> Spectrum:
    values, vectors = eigh(source.gram)
    values, vectors = values.flip(0).clamp(min=0).sqrt(), vectors.flip(-1)
    tall = source.shape[0] >= source.shape[1]
    return Spectrum(values, vectors if tall else None, None if tall else vectors)
