"""The TT-matrix of TT-LSTM (Novikov et al. 2015; Yang, Krompass and Tresp 2017): paired modes, open ends.

W[i, o] = G1[:, i1, o1, :] G2[:, i2, o2, :] ... Gd[:, id, od, :]       cores (r_{k-1}, I_k * O_k, r_k)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from trcompress.errors import ShapeError
from trcompress.formats.chain import merge

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorTrain:
    """The structure of one TT-matrix.

    Args:
        in_modes: (I_1 ... I_d).
        out_modes: (O_1 ... O_d), gates folded into O_1.
        ranks: (1, R_1 ... R_{d-1}, 1).

    Raises:
        ShapeError: unequal numbers of modes, or ends that are not 1.

    Example:
        >>> TensorTrain((8, 20, 20, 18), (16, 4, 4, 4), (1, 4, 4, 4, 1)).parameters
        3360
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    ranks: tuple[int, ...]
    kind: ClassVar[str] = "tensor-train"

    def __post_init__(self) -> None:
        if not self.in_modes or len(self.in_modes) != len(self.out_modes):
            raise ShapeError(
                f"a TT-matrix pairs its modes: got {len(self.in_modes)} input "
                f"and {len(self.out_modes)} output modes"
            )
        if len(self.ranks) != len(self.in_modes) + 1 or self.ranks[0] != 1 or self.ranks[-1] != 1:
            raise ShapeError(f"a train of d cores has ranks 1, R_1 ... R_(d-1), 1: got {self.ranks}")
        if min(*self.in_modes, *self.out_modes, *self.ranks) < 1:
            raise ShapeError(
                f"modes and ranks must be 1 or more: got {self.in_modes}, {self.out_modes}, {self.ranks}"
            )

    @classmethod
    def from_ranks(
        cls, in_modes: tuple[int, ...], out_modes: tuple[int, ...], ranks: Sequence[int], blocks: int = 1
    ) -> TensorTrain:
        """Build a train from one rank for all inner bonds, or from all its ranks with their ends.

        Raises:
            ShapeError: another number of ranks.
        """
        if len(ranks) == 1:
            ranks = (1, *[ranks[0]] * (len(in_modes) - 1), 1)
        elif len(ranks) != len(in_modes) + 1:
            raise ShapeError(f"a {cls.kind} takes one rank for all its modes: got {tuple(ranks)}")
        return cls(in_modes, out_modes, tuple(ranks))

    @property
    def blocks(self) -> int:
        """A train is one term."""
        return 1

    @property
    def bonds(self) -> tuple[int, ...]:
        """(1, R_1 ... R_{d-1})."""
        return self.ranks[:-1]

    @property
    def bottleneck(self) -> None:
        """Its modes are paired: it ends in the outputs, not in a bottleneck."""
        return None

    @property
    def multiply_adds(self) -> int:
        """Of `apply`, cut where that takes the fewest."""
        return min(self._cut_macs(cut) for cut in range(len(self.in_modes)))

    @property
    def core_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """`(r_{k-1}, I_k * O_k, r_k)` of each core."""
        pairs = [i * o for i, o in zip(self.in_modes, self.out_modes, strict=True)]
        return tuple(zip(self.ranks[:-1], pairs, self.ranks[1:], strict=True))

    @property
    def parameters(self) -> int:
        """Number of values in the cores."""
        return sum(prod(shape) for shape in self.core_shapes)

    def to_dense(self, cores: Sequence[Tensor]) -> Tensor:
        """Return W_hat (prod(in_modes), prod(out_modes))."""
        d = len(self.in_modes)
        pairs = [size for pair in zip(self.in_modes, self.out_modes, strict=True) for size in pair]
        tensor = merge(cores).reshape(pairs)  # (i_1, o_1, ..., i_d, o_d)
        order = [*range(0, 2 * d, 2), *range(1, 2 * d, 2)]
        return tensor.permute(order).reshape(prod(self.in_modes), prod(self.out_modes))

    def apply(self, cores: Sequence[Tensor], x: Tensor) -> Tensor:
        """Return x @ W_hat, (N, I) -> (N, O).

        The train is cut in two: the cores right of the cut are merged and meet the contiguous rows of x first, then
        the cores left of it.
        """
        d = len(self.in_modes)
        cut = min(range(d), key=self._cut_macs)
        S = self._merged(cores, cut, d)  # (rs, I_right, O_right)
        rs, rows, columns = S.shape
        y = x.reshape(-1, rows) @ S.transpose(0, 1).reshape(rows, rs * columns)  # (N * I_left, rs * O_right)
        if cut == 0:
            return y
        P = self._merged(cores, 0, cut)  # (1, I_left, O_left * rs)
        left = P.reshape(P.shape[1], -1, rs).transpose(1, 2).reshape(P.shape[1] * rs, -1)  # (I_left * rs, O_left)
        grid = y.view(-1, P.shape[1] * rs, columns).transpose(1, 2)  # (N, O_right, I_left * rs)
        return (grid.reshape(-1, left.shape[0]) @ left).view(-1, columns, left.shape[1]).transpose(1, 2).flatten(1)

    def squared_norm(self, cores: Sequence[Tensor]) -> Tensor:
        """Return ||W_hat||^2: carry the Gram matrix of the bond along."""
        gram = cores[0].new_ones(1, 1)
        for core in cores:
            right = (gram @ core.flatten(1)).view(
                -1, *core.shape[1:]
            )  # (a, n, d) = sum over b of gram[a, b] core[b]
            gram = core.flatten(0, 1).T @ right.flatten(0, 1)  # (c, d)
        return gram.squeeze()

    def output_index(self, k: int) -> tuple[int, tuple[int, ...], int] | None:
        """Core k is `(r, I_k * O_k, r')`."""
        left, _, right = self.core_shapes[k]
        return k, (left, self.in_modes[k], self.out_modes[k], right), 2

    def _cut_macs(self, cut: int) -> int:
        """Multiply-adds of `apply` for one row, cut left of core `cut`."""
        left, right = prod(self.in_modes[:cut]), prod(self.in_modes[cut:])
        o_left, o_right, rs = prod(self.out_modes[:cut]), prod(self.out_modes[cut:]), self.ranks[cut]
        return left * right * rs * o_right + (o_right * left * rs * o_left if cut else 0)

    def _merged(self, cores: Sequence[Tensor], start: int, stop: int) -> Tensor:
        """Merge cores start..stop-1: (r, inputs, outputs * r')."""
        merged = merge(cores[start:stop])
        modes = [*zip(self.in_modes[start:stop], self.out_modes[start:stop], strict=True)]
        d = len(modes)
        grid = merged.reshape(merged.shape[0], *[size for pair in modes for size in pair], merged.shape[-1])
        order = [0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1]
        return grid.permute(order).reshape(merged.shape[0], prod(mode for mode, _ in modes), -1)
