"""What every format answers. A new format is one file with these members and one entry in `FORMATS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Format(Protocol):
    """The structure of one matrix W (prod(in_modes), prod(out_modes)), kept as cores. Plain frozen values.

    Attributes:
        kind: its key in `FORMATS`, as recipes and artifacts spell it.
        in_modes: sizes whose product is the (padded) number of inputs.
        out_modes: sizes whose product is the (padded) number of outputs, gates folded into the first.
        ranks: the ranks as an artifact's header keeps them; `from_ranks` takes them back.
        blocks: terms of a sum, as the header keeps them; 1 where the format has none.
        core_shapes: of the cores, in the order in which `to_dense` takes them.
        parameters: values in the cores.
        bonds: sizes of what `to_dense` sums over: Gaussian cores of variance v give W the variance prod(bonds) v^d.
        bottleneck: K where W = A (I, K) B (K, O); None where the format has no such pair.
        multiply_adds: of `apply`, for one row of x.
    """

    kind: ClassVar[str]

    @property
    def in_modes(self) -> tuple[int, ...]: ...

    @property
    def out_modes(self) -> tuple[int, ...]: ...

    @property
    def ranks(self) -> tuple[int, ...]: ...

    @property
    def blocks(self) -> int: ...

    @property
    def core_shapes(self) -> tuple[tuple[int, ...], ...]: ...

    @property
    def parameters(self) -> int: ...

    @property
    def bonds(self) -> tuple[int, ...]: ...

    @property
    def bottleneck(self) -> int | None: ...

    @property
    def multiply_adds(self) -> int: ...

    @classmethod
    def from_ranks(
        cls, in_modes: tuple[int, ...], out_modes: tuple[int, ...], ranks: Sequence[int], blocks: int = 1
    ) -> Format:
        """Build the structure from what a user types, or from a header's fields."""
        ...

    def to_dense(self, cores: Sequence[Tensor]) -> Tensor:
        """Return W_hat (prod(in_modes), prod(out_modes)), differentiable in the cores."""
        ...

    def apply(self, cores: Sequence[Tensor], x: Tensor) -> Tensor:
        """Return x @ W_hat, (N, prod(in_modes)) -> (N, prod(out_modes)), without expanding W_hat."""
        ...

    def squared_norm(self, cores: Sequence[Tensor]) -> Tensor:
        """Return the sum of the squared entries of W_hat without expanding it."""
        ...

    def output_index(self, k: int) -> tuple[int, tuple[int, ...], int] | None:
        """Find the output mode that core k holds.

        Returns:
            (which of `out_modes`, a shape of the core that has this mode as one dimension, that dimension);
            None where the core holds none.
        """
        ...
