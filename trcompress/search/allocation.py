"""One budget over all weights without data: equal ranks, then the least sum of errors near them.

    r = the largest rank that fits for every weight alike, a weight staying dense where r reaches its break-even
    within [r / 1.5, 1.5 r]: least sum of ||W - W_r|| / ||W||, unsquared

Measured against shares by kept energy and by white noise through the network, both of which starve the first layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from torch import Tensor
from torch.nn.functional import pad

from trcompress.calibration.share import break_even_rank, cost, steepest
from trcompress.decomposition import MatrixSource
from trcompress.decomposition.spectrum import spectrum
from trcompress.errors import UsageError
from trcompress.model.matrix import Matrix

WINDOW = 1.5
"""Ranks move away from the equal one by this factor at most."""

Weights = Sequence[tuple[Matrix, MatrixSource]]


def allocate(weights: Weights, budget: int) -> dict[str, int | None]:
    """Give every weight a rank of its two-mode ring, or None where it stays dense.

    Args:
        weights: those to share between, with their values.
        budget: most parameters of all together.

    Raises:
        UsageError: the budget does not allow rank 1 for each.

    Example:
        >>> import torch
        >>> from trcompress.decomposition import InMemoryMatrix
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> sizes = {"a": 6, "b": 64}
        >>> weights = [
        ...     (Matrix.input_to_hidden(key, "lstm", size, 16), InMemoryMatrix(torch.randn(64, size)))
        ...     for key, size in sizes.items()
        ... ]
        >>> allocate(weights, 2000)
        {'a': None, 'b': 12}
    """
    matrices = [matrix for matrix, _ in weights]
    equal = equal_ranks(matrices, budget)
    rank = largest_equal_rank(matrices, budget)
    ranks = {
        matrix.key: None if equal[matrix.key] is None else min(ceil(rank / WINDOW), break_even_rank(matrix) - 1)
        for matrix in matrices
    }
    errors = {matrix.key: relative_errors(source) for matrix, source in weights}
    # steps by the steepest fall may end above the equal rank, in whose place they are taken: both ways are gone
    found = [_filled(matrices, errors, start, int(WINDOW * rank), budget) for start in (ranks, equal)]
    return min(found, key=lambda one: _sum_of_errors(errors, one))


def equal_ranks(matrices: Sequence[Matrix], budget: int) -> dict[str, int | None]:
    """The largest rank that fits for every weight alike; None, dense, where it is no smaller than the weight.

    Raises:
        UsageError: the budget does not allow rank 1 for each.
    """
    rank = largest_equal_rank(matrices, budget)
    return {matrix.key: _or_dense(matrix, rank) for matrix in matrices}


def largest_equal_rank(matrices: Sequence[Matrix], budget: int) -> int:
    """Return the largest rank at which all weights together keep to the budget.

    Raises:
        UsageError: not even rank 1 does.
    """

    def whole(rank: int) -> int:
        return sum(cost(matrix, _or_dense(matrix, rank)) for matrix in matrices)

    if whole(1) > budget:
        listed = ", ".join(matrix.key for matrix in matrices)
        raise UsageError(
            f"{budget:,} parameters do not allow rank 1 for each of {listed}: that takes {whole(1):,}; allow more"
        )
    low, high = 1, max(break_even_rank(matrix) for matrix in matrices)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if whole(middle) <= budget else (low, middle - 1)
    return low


def relative_errors(source: MatrixSource) -> Tensor:
    """||W - W_r|| / ||W|| of the truncated SVD for r = 0, 1, ..., min(I, O)."""
    squares = spectrum(source).values.square()
    tail = pad(squares.flip(0).cumsum(0).flip(0), (0, 1))
    return (tail / tail[0].clamp_min(1e-300)).sqrt()


def proportional_ranks(matrices: Sequence[Matrix], budget: int) -> dict[str, int | None]:
    """Ranks at which every weight reaches the same ratio."""
    share = budget / sum(matrix.parameters for matrix in matrices)
    return {
        matrix.key: _or_dense(matrix, max(1, int(share * matrix.parameters / cost(matrix, 1))))
        for matrix in matrices
    }


def first_layer_warnings(matrices: Sequence[Matrix], ranks: Mapping[str, int | None]) -> list[str]:
    """Name first layers that keep less than half of their input's directions."""
    return [
        f"{matrix.key} is a first layer and gets the values of rank {rank} of {matrix.columns} inputs: no later "
        "layer brings back what it loses; give calibration data, or leave it dense"
        for matrix in matrices
        if matrix.index == 0 and (rank := ranks.get(matrix.key)) and 2 * rank < min(matrix.columns, matrix.rows)
    ]


def _or_dense(matrix: Matrix, rank: int) -> int | None:
    return None if rank >= break_even_rank(matrix) else rank


def _sum_of_errors(errors: Mapping[str, Tensor], ranks: Mapping[str, int | None]) -> float:
    return sum(float(errors[key][rank]) for key, rank in ranks.items() if rank is not None)


def _filled(
    matrices: Sequence[Matrix],
    errors: Mapping[str, Tensor],
    ranks: dict[str, int | None],
    most: int,
    budget: int,
) -> dict[str, int | None]:
    """Raise ranks where that lowers the sum of errors most a parameter, for as long as the budget lasts."""
    left = budget - sum(cost(matrix, ranks[matrix.key]) for matrix in matrices)
    while True:
        best: tuple[float, Matrix, int | None] | None = None
        for matrix in matrices:
            rank = ranks[matrix.key]
            if rank is None or rank >= most:
                continue
            curve, step = errors[matrix.key].numpy(), cost(matrix, 1)
            highest = min(rank + left // step, most, break_even_rank(matrix) - 1)
            steps: list[tuple[float, int | None]] = []
            if highest > rank:
                fall, higher = steepest(curve, rank, highest)
                steps.append((fall / step, higher))
            if most >= break_even_rank(matrix) and (price := cost(matrix, None) - cost(matrix, rank)) <= left:
                steps.append((float(curve[rank]) / max(1, price), None))
            for gain, reached in steps:
                if best is None or gain > best[0]:
                    best = gain, matrix, reached
        if best is None:
            return ranks
        _, matrix, reached = best
        left -= cost(matrix, reached) - cost(matrix, ranks[matrix.key])
        ranks[matrix.key] = reached
