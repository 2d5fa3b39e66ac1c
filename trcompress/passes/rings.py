"""Two-mode rings of matrices of recurrent layers, in closed form: the best rank K on the inputs that were recorded.

W (rows, n) becomes U (U' W), U the K leading directions of W C W' where C is the covariance of the inputs: no other
matrix of that rank keeps the products W x closer. The mean of what is lost goes into the bias. Input weights become
bottlenecks of width K before PyTorch's own kernel, like every ring; weight_hh is expanded for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.decomposition.linalg import eigh
from trcompress.formats import TensorRing
from trcompress.layers import RING_OF, CoreWeight, from_dense, layers_of
from trcompress.layers.cells import RingCell
from trcompress.layers.stack import RingStack
from trcompress.model.matrix import Matrix
from trcompress.model.weight_plan import WeightPlan
from trcompress.passes.guess import has
from trcompress.passes.matrix_moments import MatrixMoments
from trcompress.passes.moments import Moments


@dataclass(frozen=True)
class LowRank:
    """A matrix of rank K.

    Args:
        left: (rows, K), orthonormal columns.
        right: (K, n).
        shift: (rows,) what the bias takes of the mean, or None.
    """

    left: Tensor
    right: Tensor
    shift: Tensor | None


def low_rank(weight: Tensor, rank: int, moments: Moments | None, *, centred: bool = True) -> LowRank:
    """Find the matrix of rank K whose products with the recorded inputs lie closest.

    Example:
        >>> found = low_rank(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 1, None)
        >>> (found.left @ found.right).round().tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    wide = weight.detach().double().cpu()
    metric = None if moments is None else moments.about(centred)
    energy = wide @ wide.T if metric is None else wide @ metric @ wide.T + 1e-6 * (wide @ wide.T)
    directions = eigh(energy)[1][:, -rank:].flip(1)
    right = directions.T @ wide
    shift = None
    if moments is not None and centred:
        shift = (wide - directions @ right) @ moments.mean
    return LowRank(directions.to(weight), right.to(weight), None if shift is None else shift.to(weight))


def break_even(rows: int, columns: int) -> float:
    """Return the rank at which two factors take as many values as the matrix."""
    return rows * columns / (rows + columns)


def whole_rank(rank: float, rows: int, columns: int) -> int:
    """Return a rank as it is, or the one that is so large a share of the break-even rank.

    Example:
        >>> whole_rank(8, 256, 64), whole_rank(0.5, 256, 64)
        (8, 26)
    """
    return rank if isinstance(rank, int) else round(rank * break_even(rows, columns))


def ring_swaps(
    model: nn.Module, rank: float, seen: MatrixMoments, roles: Sequence[str] = ("ih",), least: int = 32
) -> dict[str, nn.Module]:
    """Give matrices of every recurrent module a rank below the break-even.

    Args:
        model: any module, unchanged; matrices that are rings already stay as they are.
        rank: an integer; or a share of the break-even rank, between 0.0 and 1.0.
        seen: moments of what its matrices multiply.
        roles: "ih", "hh" or both.
        least: matrices narrower than this are left, where `rank` is a share.

    Returns:
        Ring layers by the name of the module they stand for.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if type(module) in RING_OF or isinstance(module, RingStack | RingCell):
            swap = _ring_layer(name, module, rank, seen, roles, least)
            if swap is not None:
                found[name] = swap
    return found


def _ring_layer(
    name: str, module: Any, rank: float, seen: MatrixMoments, roles: Sequence[str], least: int
) -> nn.Module | None:
    prefix = f"{name}." if name else ""
    chosen: dict[str, LowRank] = {}
    plans: dict[str, WeightPlan] = {}
    for layer in layers_of(module):
        for matrix in layer.matrices:
            most = break_even(matrix.rows, matrix.columns)
            wanted = min(whole_rank(rank, matrix.rows, matrix.columns), matrix.rows, matrix.columns)
            weight, bias = getattr(module, matrix.key), matrix.key.replace("weight", "bias")
            pays = wanted < most if isinstance(rank, int) else wanted >= 1 and matrix.columns >= least
            if matrix.role in roles and pays and isinstance(weight, Tensor):
                moments = seen.moments.get(prefix + matrix.key)
                chosen[matrix.key] = low_rank(weight, wanted, moments, centred=has(module, bias))
                plans[matrix.key] = _two_mode(matrix, wanted)
    if not chosen:
        return None
    ring = from_dense(module, plans)
    with torch.no_grad():
        for key, one in chosen.items():
            cores: Any = ring.get_submodule(key)
            _fill(cores, one)
            if one.shift is not None:
                getattr(ring, key.replace("weight", "bias")).add_(one.shift)
    return ring


def _two_mode(matrix: Matrix, rank: int) -> WeightPlan:
    return WeightPlan(matrix, TensorRing((matrix.columns,), (matrix.rows,), (1, rank, 1)))


def _fill(weight: CoreWeight, found: LowRank) -> None:
    weight.set_cores([found.right.T.unsqueeze(0), found.left.T.unsqueeze(-1)])
