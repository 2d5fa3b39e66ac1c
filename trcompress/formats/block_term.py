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

    @classmethod
    def from_ranks(
        cls, in_modes: tuple[int, ...], out_modes: tuple[int, ...], ranks: Sequence[int], blocks: int = 1
    ) -> BlockTerm:
        """Build a sum of `blocks` terms from one Tucker rank for all modes.

        Raises:
            ShapeError: another number of ranks.
        """
        if len(ranks) != 1:
            raise ShapeError(f"a {cls.kind} takes one rank for all its modes: got {tuple(ranks)}")
        return cls(in_modes, out_modes, ranks[0], blocks)

    @property
    def ranks(self) -> tuple[int, ...]:
        """(R,), the Tucker rank of every mode."""
        return (self.rank,)

    @property
    def bonds(self) -> tuple[int, ...]:
        """The terms, and the Tucker bond of every mode."""
        return (self.blocks, *[self.rank] * len(self.in_modes))

    @property
    def bottleneck(self) -> None:
        """Its modes are paired: it ends in the outputs, not in a bottleneck."""
        return None

    @property
    def multiply_adds(self) -> int:
        """Of `apply`: one mode at a time, the last first."""
        rows, bonds, columns, macs = prod(self.in_modes), 1, 1, 0
        for i, o in zip(reversed(self.in_modes[1:]), reversed(self.out_modes[1:]), strict=True):
            macs += rows * bonds * columns * o * self.rank
            rows, bonds, columns = rows // i, bonds * self.rank, columns * o
        return self.blocks * (macs + columns * rows * bonds * self.out_modes[0])

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

    def apply(self, cores: Sequence[Tensor], x: Tensor) -> Tensor:
        """Return x @ W_hat, (N, I) -> (N, O).

        Tucker terms grow too wide when merged, so their factors are taken one mode at a time, the last first.
        """
        first, *factors, tucker = cores
        n, rank, i, o = self.blocks, self.rank, self.in_modes[0], self.out_modes[0]
        y = x.reshape(1, -1, 1, 1)  # (n or 1, N * I_1 ... I_k, bonds k+1..d, outputs k+1..d)
        for factor in reversed(factors):
            y = _absorb_mode(y, factor)
        rest = rank ** len(factors)
        head = first.reshape(n, i * o, rank) @ tucker.reshape(n, rank, rest)  # (n, I_1 * O_1, bonds)
        head = head.view(n, i, o, rest).transpose(2, 3).reshape(n * i * rest, o)
        y = y.expand(n, -1, -1, -1).reshape(n, x.shape[0], i, rest, -1)
        columns = y.shape[-1]
        rows = y.permute(1, 4, 0, 2, 3).reshape(-1, n * i * rest)  # (N * outputs, n * I_1 * bonds)
        return (rows @ head).view(-1, columns, o).transpose(1, 2).flatten(1)

    def squared_norm(self, cores: Sequence[Tensor]) -> Tensor:
        """Return ||W_hat||^2: each pair of terms through the Gram matrices of its factors."""
        import torch

        *factors, tucker = cores
        flat = [factor.flatten(1, 2) for factor in factors]  # (n, I_k * O_k, r)
        total = tucker.new_zeros(())
        for n, left in enumerate(tucker):
            for m, right in enumerate(tucker):
                carried = left
                for factor in flat:  # contract the first bond, put the new one last: d rounds restore the order
                    carried = torch.tensordot(carried, factor[n].T @ factor[m], ([0], [0]))
                total = total + (carried * right).sum()
        return total

    def output_index(self, k: int) -> tuple[int, tuple[int, ...], int] | None:
        """Factor k is `(N, I_k, O_k, R)`; the Tucker cores hold no output mode."""
        return (k, self.core_shapes[k], 2) if k < len(self.out_modes) else None


def _absorb(tensor: Tensor, factor: Tensor) -> Tensor:
    """Contract the first Tucker bond: (N, i, o, r, rest), (N, p, q, r) -> (N, i*p, o*q, rest)."""
    n, i, o, r = tensor.shape[:4]
    p, q = factor.shape[1:3]
    rest = tensor.shape[4:]
    product = factor.reshape(n, 1, p * q, r) @ tensor.reshape(n, i * o, r, -1)  # (N, i*o, p*q, rest)
    grid = product.reshape(n, i, o, p, q, -1).transpose(2, 3)
    return grid.reshape(n, i * p, o * q, *rest)


def _absorb_mode(y: Tensor, factor: Tensor) -> Tensor:
    """Contract one input mode: (n, rows * i, bonds, outputs) to (n, rows, r * bonds, o * outputs)."""
    n, i, o, rank = factor.shape
    bonds, columns = y.shape[2:]
    if y.shape[0] == bonds == columns == 1:  # x itself, the same for every term: one product for all of them
        grown = (y.reshape(-1, i) @ factor.transpose(0, 1).reshape(i, -1)).view(-1, n, o, rank)
        return grown.permute(1, 0, 3, 2)
    grid = y.reshape(n, -1, i, bonds, columns).permute(0, 1, 3, 4, 2).reshape(n, -1, i)
    grown = (grid @ factor.reshape(n, i, o * rank)).view(n, -1, bonds, columns, o, rank)
    return grown.permute(0, 1, 5, 2, 4, 3).reshape(n, -1, rank * bonds, o * columns)
