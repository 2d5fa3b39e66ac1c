"""The tensor ring (Eqs. 3, 5): two open chains, of input and of output cores, joined at two bonds.

    W[i, o] = sum over (r0, rn) of  A[i, (r0, rn)] * B[(r0, rn), o],       K = R0 * Rn

so a ring is a linear bottleneck of width K, and its rank as a matrix is at most K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, TypeGuard

from trcompress.errors import ShapeError
from trcompress.formats.base import Format
from trcompress.formats.chain import merge

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorRing:
    """The structure of one ring: its modes and its bonds.

    Args:
        in_modes: (I_1 ... I_n), whose product is the (padded) number of inputs.
        out_modes: (O_1 ... O_m), whose product is the (padded) number of outputs, gates folded in.
        ranks: (R_0 ... R_{n+m}) with both ends equal.

    Raises:
        ShapeError: no mode on one side, a size below one, a wrong number of ranks, or an open ring.

    Example:
        >>> ring = TensorRing((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), (10, *[5] * 12, 10))
        >>> ring.parameters, ring.bottleneck
        (1725, 50)
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    ranks: tuple[int, ...]
    kind: ClassVar[str] = "tensor-ring"

    def __post_init__(self) -> None:
        if not self.in_modes or not self.out_modes:
            raise ShapeError("a ring needs at least one input mode and one output mode, as in 8x8:4x4")
        if min(*self.modes, *self.ranks) < 1:
            raise ShapeError(f"modes and ranks must be 1 or more: got modes {self.modes}, ranks {self.ranks}")
        if len(self.ranks) != len(self.modes) + 1:
            raise ShapeError(
                f"a ring of {len(self.modes)} modes has {len(self.modes) + 1} ranks R0..R{len(self.modes)}, "
                f"the closing one repeated: got {len(self.ranks)} ({self.ranks})"
            )
        if self.ranks[0] != self.ranks[-1]:
            raise ShapeError(
                f"ranks must close the ring: got ranks[0]={self.ranks[0]}, ranks[-1]={self.ranks[-1]}; "
                "set both ends to the same value"
            )

    @classmethod
    def from_ranks(
        cls, in_modes: tuple[int, ...], out_modes: tuple[int, ...], ranks: Sequence[int], blocks: int = 1
    ) -> TensorRing:
        """Build a ring from the short forms of the rank grammar; see `ring_ranks`.

        Example:
            >>> TensorRing.from_ranks((4, 2), (8, 3), (5, 10)).ranks
            (10, 5, 5, 5, 10)
        """
        return cls(in_modes, out_modes, ring_ranks(ranks, in_modes, out_modes))

    @property
    def blocks(self) -> int:
        """A ring is one term."""
        return 1

    @property
    def modes(self) -> tuple[int, ...]:
        """All modes around the ring, inputs first."""
        return self.in_modes + self.out_modes

    @property
    def bottleneck(self) -> int:
        """K = R0 * Rn, the width between the input and the output cores."""
        return self.ranks[0] * self.ranks[len(self.in_modes)]

    @property
    def core_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """`(r_k, n_k, r_{k+1})` of each core, inputs first."""
        return tuple(zip(self.ranks[:-1], self.modes, self.ranks[1:], strict=True))

    @property
    def parameters(self) -> int:
        """Number of values in the cores: the denominator of Eq. 7."""
        return sum(prod(shape) for shape in self.core_shapes)

    @property
    def bonds(self) -> tuple[int, ...]:
        """(R_0 ... R_{n+m-1}), the closing one once."""
        return self.ranks[:-1]

    @property
    def multiply_adds(self) -> int:
        """Of `apply`: K values a row, each from all inputs and to all outputs."""
        return self.bottleneck * (prod(self.in_modes) + prod(self.out_modes))

    def input_factor(self, cores: Sequence[Tensor]) -> Tensor:
        """Merge the input cores into A: (..., prod(in_modes), K), columns ordered (r0, rn)."""
        chain = merge(cores[: len(self.in_modes)])  # (..., r_0, I, r_n)
        return chain.transpose(-3, -2).flatten(-2)

    def output_factor(self, cores: Sequence[Tensor]) -> Tensor:
        """Merge the output cores into B: (..., K, prod(out_modes)), rows ordered (r0, rn)."""
        chain = merge(cores[len(self.in_modes) :])  # (..., r_n, O, r_0)
        return chain.movedim(-1, -3).flatten(-3, -2)

    def to_dense(self, cores: Sequence[Tensor]) -> Tensor:
        """Return W_hat (..., prod(in_modes), prod(out_modes))  # Eq. 5."""
        return self.input_factor(cores) @ self.output_factor(cores)

    def apply(self, cores: Sequence[Tensor], x: Tensor) -> Tensor:
        """Return x @ W_hat through the bottleneck, (N, I) -> (N, K) -> (N, O)."""
        return x @ self.input_factor(cores) @ self.output_factor(cores)

    def squared_norm(self, cores: Sequence[Tensor]) -> Tensor:
        """Return ||W_hat||^2 as the trace of (A' A) (B B'), both (K, K)."""
        A, B = self.input_factor(cores), self.output_factor(cores)
        return ((A.mT @ A) * (B @ B.mT)).sum((-2, -1))

    def output_index(self, k: int) -> tuple[int, tuple[int, ...], int] | None:
        """Output core k is `(r, O_k, r')`."""
        mode = k - len(self.in_modes)
        return (mode, self.core_shapes[k], 1) if mode >= 0 else None


def carried_ranks(ranks: Sequence[int], in_modes: Sequence[int], out_modes: Sequence[int]) -> tuple[int, ...]:
    """Lower ranks to what their bonds can carry; every ring of the given ranks is one of these.

    A core (r, n, r') has rank at most n r' over its left bond and r n over its right one; what lies above goes into
    its neighbour. Where all ranks reach the full ones, at which any matrix is exact, these are enough.

    Args:
        ranks: (R_0 ... R_{n+m}), closed.
        in_modes: input modes.
        out_modes: output modes, gates folded in.

    Example:
        >>> carried_ranks((1000, 3, 3, 1000), (4, 5), (6,)), carried_ranks((9, 9, 9), (4,), (6,))
        ((12, 3, 3, 12), (1, 4, 1))
    """
    modes = (*in_modes, *out_modes)
    full = ring_ranks((), in_modes, out_modes)
    if all(rank >= needed for rank, needed in zip(ranks, full, strict=True)):
        return full
    bonds, before = list(ranks[:-1]), None
    while bonds != before:
        before = list(bonds)
        for k, n in enumerate(modes):  # core k lies between bonds k and k + 1
            right = (k + 1) % len(modes)
            bonds[right] = min(bonds[right], bonds[k] * n)
        for k, n in reversed(list(enumerate(modes))):
            right = (k + 1) % len(modes)
            bonds[k] = min(bonds[k], n * bonds[right])
    return (*bonds, bonds[0])


def is_ring(structure: Format) -> TypeGuard[TensorRing]:
    """Return True where a structure is a tensor ring."""
    return isinstance(structure, TensorRing)


def as_ring(structure: Format, rule: str) -> TensorRing:
    """Return a structure that must be a ring.

    Args:
        structure: any format.
        rule: what asks for a ring, in words, as in "rnn.weight_ih_l0: only tensor rings are decomposed".

    Raises:
        ShapeError: it is of another format.
    """
    if not isinstance(structure, TensorRing):
        raise ShapeError(f"{rule}: got a {structure.kind}")
    return structure


def ring_ranks(given: Sequence[int], in_modes: Sequence[int], out_modes: Sequence[int]) -> tuple[int, ...]:
    """Spell out R0 .. R(n+m) from the short forms of the rank grammar.

    Args:
        given: () for the full ranks, (r,) for all, (inner, R0), or n+m (or n+m+1) numbers.
        in_modes: input modes.
        out_modes: output modes, gates folded in.

    Raises:
        ShapeError: another number of ranks, or a last one that differs from the first.

    Example:
        >>> ring_ranks((5, 10), (4, 2), (8, 3))
        (10, 5, 5, 5, 10)
    """
    modes = (*in_modes, *out_modes)
    d = len(modes)
    if not given:
        return tuple(min(prod(modes[:k]), prod(modes[k:])) for k in range(d + 1))
    if len(given) == 1:
        return (given[0],) * (d + 1)
    if len(given) in (d, d + 1):
        if len(given) == d + 1 and given[0] != given[-1]:
            raise ShapeError(
                f"ranks must close the ring: got R0={given[0]} and R{d}={given[-1]}; "
                f"set both ends to the same value, or give only R0..R{d - 1}"
            )
        return (*given, given[0]) if len(given) == d else tuple(given)
    if len(given) == 2:
        return (given[1], *[given[0]] * (d - 1), given[1])
    raise ShapeError(
        f"ranks must be one number (all), two (inner,R0) or {d} (R0..R{d - 1}) for {d} modes: "
        f"got {len(given)} numbers {','.join(map(str, given))}"
    )
