"""The block-term matrix of BT-LSTM (Ye et al. 2018): a sum of Tucker terms over paired modes.

W[i, o] = sum over n and (r_1 ... r_d) of  S_n[r_1 ... r_d] * F_n1[i1, o1, r_1] ... F_nd[id, od, r_d]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from trcompress.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BlockTerm:
    """The structure of one block-term matrix.

    Args:
        in_modes: (I_1 ... I_d).
        out_modes: (O_1 ... O_d), gates folded into O_1.
        rank: the Tucker rank R of every mode.
        blocks: the number N of Tucker terms.

    Raises:
        ShapeError: unequal numbers of modes, or a size below one.

    Example:
        >>> BlockTerm((8, 20, 20, 18), (16, 4, 4, 4), rank=4, blocks=2).parameters
        3392
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    rank: int
    blocks: int
    kind: ClassVar[str] = "block-term"

    def __post_init__(self) -> None:
        if not self.in_modes or len(self.in_modes) != len(self.out_modes):
            raise ShapeError(
                f"a block-term matrix pairs its modes: got {len(self.in_modes)} input "
                f"and {len(self.out_modes)} output modes"
            )
        if min(*self.in_modes, *self.out_modes, self.rank, self.blocks) < 1:
            raise ShapeError(f"modes, rank and blocks must be 1 or more: got {self}")

    @property
    def core_shapes(self) -> tuple[tuple[int, ...], ...]:
        """d factors `(N, I_k, O_k, R)`, then the Tucker cores `(N, R, ..., R)`; N blocks stacked."""
        factors = [(self.blocks, i, o, self.rank) for i, o in zip(self.in_modes, self.out_modes, strict=True)]
        return (*factors, (self.blocks, *[self.rank] * len(self.in_modes)))

    @property
    def parameters(self) -> int:
        """Number of values in the factors and Tucker cores: N * (sum I_k O_k R + R^d)."""
        return sum(prod(shape) for shape in self.core_shapes)

    def to_dense(self, cores: Sequence[Tensor]) -> Tensor:
        """Return W_hat (prod(in_modes), prod(out_modes))."""
        *factors, tucker = cores
        tensor = tucker.unsqueeze(1).unsqueeze(1)  # (N, i=1, o=1, r_1, ..., r_d)
        for factor in factors:
            tensor = _absorb(tensor, factor)
        return tensor.sum(0)


def _absorb(tensor: Tensor, factor: Tensor) -> Tensor:
    """Contract the first Tucker bond: (N, i, o, r, rest), (N, p, q, r) -> (N, i*p, o*q, rest)."""
    n, i, o, r = tensor.shape[:4]
    p, q = factor.shape[1:3]
    rest = tensor.shape[4:]
    product = factor.reshape(n, 1, p * q, r) @ tensor.reshape(n, i * o, r, -1)  # (N, i*o, p*q, rest)
    grid = product.reshape(n, i, o, p, q, -1).transpose(2, 3)
    return grid.reshape(n, i * p, o * q, *rest)
