"""What TensorLy's tensor train makes of a weight within a count of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from trcompress.decomposition.linalg import svd
from trcompress.decomposition.source import MatrixSource
from trcompress.search.modes import mode_choices

Modes = tuple[int, ...]
MAX_VALUES = 1 << 23
"""Largest W that is compared."""
MAX_WORK = 2e10
"""Operations of the first SVD of a choice of modes; dearer choices are left out."""


@dataclass
class TensorTrains:
    """TT-SVDs of one weight (`tensorly.decomposition.tensor_train_matrix`), at any count.

    Args:
        source: W (I, O).

    Example:
        >>> from trcompress.decomposition import InMemoryMatrix
        >>> TensorTrains(InMemoryMatrix(torch.ones(24, 12))).error(100) < 1e-6
        True
    """

    source: MatrixSource
    _errors: dict[tuple[Modes, Modes, int], float] = field(default_factory=dict)
    _first: dict[tuple[Modes, Modes], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def error(self, budget: int) -> float | None:
        """Return ||W - W_hat|| / ||W|| of the best train of equal ranks within a count of parameters.

        Two to four balanced modes on either side are compared, W zero-padded where they ask for it.

        Returns:
            None where W is too large, or no train fits into the count.
        """
        if prod(self.source.shape) > MAX_VALUES or self.source.squared_norm == 0.0:
            return None
        inputs, outputs = (_by_count(size) for size in self.source.shape)
        found = []
        for count in sorted(set(inputs) & set(outputs) & {2, 3, 4}):
            modes = inputs[count], outputs[count]
            rank = _largest_rank(*modes, budget)
            if rank and _work(*modes) <= MAX_WORK:
                found.append(self._error_at(*modes, rank))
        return min(found, default=None)

    def _error_at(self, in_modes: Modes, out_modes: Modes, rank: int) -> float:
        key = in_modes, out_modes, rank
        if key not in self._errors:
            self._errors[key] = self._fit(in_modes, out_modes, rank)
        return self._errors[key]

    def _fit(self, in_modes: Modes, out_modes: Modes, rank: int) -> float:
        import tensorly as tl  # not at the top: it takes a second
        from tensorly.decomposition import tensor_train_matrix
        from tensorly.tt_matrix import tt_matrix_to_matrix

        rows, columns = self.source.shape
        matrix = torch.nn.functional.pad(
            self.source.dense(), (0, prod(out_modes) - columns, 0, prod(in_modes) - rows)
        )

        known = self._first.get((in_modes, out_modes))
        waiting = [known] if known else []

        def remembered(unfolding: Tensor, n_eigenvecs: int, **_: object) -> tuple[Tensor, Tensor, Tensor]:
            """The first unfolding is the same at every rank, and the largest."""
            u, s, vh = waiting.pop() if waiting else svd(unfolding)
            self._first.setdefault((in_modes, out_modes), (u, s, vh))
            return u[:, :n_eigenvecs], s[:n_eigenvecs], vh[:n_eigenvecs]

        ranks = [1, *[rank] * (len(in_modes) - 1), 1]
        with tl.backend_context("pytorch"):
            train = tensor_train_matrix(matrix.reshape(*in_modes, *out_modes), ranks, svd=remembered)
            close = tt_matrix_to_matrix(train)
        return float((matrix - close).norm() / matrix.norm())


def train_parameters(in_modes: Modes, out_modes: Modes, rank: int) -> int:
    """Count the values of a train of equal ranks, each lowered to what its bond can hold.

    Example:
        >>> train_parameters((4, 3), (2, 2), 5)
        70
    """
    sizes = [a * b for a, b in zip(in_modes, out_modes, strict=True)]
    inner = [min(rank, prod(sizes[:k]), prod(sizes[k:])) for k in range(1, len(sizes))]
    ranks = [1, *inner, 1]
    return sum(left * size * right for left, size, right in zip(ranks, sizes, ranks[1:], strict=False))


def _largest_rank(in_modes: Modes, out_modes: Modes, budget: int) -> int:
    """The largest rank whose train fits, 0 where none does."""
    low, high = 0, prod(in_modes) * prod(out_modes)
    while low < high:
        middle = (low + high + 1) // 2
        fits = train_parameters(in_modes, out_modes, middle) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _work(in_modes: Modes, out_modes: Modes) -> float:
    """Operations of the first SVD."""
    rows = in_modes[0] * out_modes[0]
    columns = prod(in_modes) * prod(out_modes) // rows
    return 10.0 * rows * columns * min(rows, columns)


def _by_count(size: int) -> dict[int, Modes]:
    return {len(modes): modes for modes in mode_choices(size, keep=1)}
