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
