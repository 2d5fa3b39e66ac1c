"""One weight and the structure that replaces it: counts, and the products of its cores with gates and padding.

A structure knows nothing of gates. Fused gates are folded into its first output mode; with a structure per gate,
cores have a leading dimension over the gates. Either may be larger than the weight, which is then zero-padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from trcompress.formats import Format, as_ring
from trcompress.model.matrix import Matrix

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WeightPlan:
    """The structure that replaces one weight.

    Args:
        matrix: the weight: its name and sizes.
        structure: the format with its modes and ranks; gates are folded into the first output mode, unless
            `per_gate`, where it is the structure of each gate's own ring.
        per_gate: one ring per gate instead of one for all.
        asked_ranks: the ranks that were asked for, where they were above what the bonds can carry.
    """

    matrix: Matrix
    structure: Format
    per_gate: bool = False
    asked_ranks: tuple[int, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """The weight's key, as in `rnn.weight_ih_l0`."""
        return self.matrix.key

    @property
    def copies(self) -> int:
        """How many structures of this kind stand for the weight: the gates if `per_gate`, else 1."""
        return self.matrix.gates if self.per_gate else 1

    @property
    def core_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the cores as layers and artifacts keep them: with a leading dimension where each gate has its own."""
        lead = (self.copies,) if self.per_gate else ()
        return tuple((*lead, *shape) for shape in self.structure.core_shapes)

    @property
    def parameters(self) -> int:
        """Values kept for this weight."""
        return self.copies * self.structure.parameters

    @property
    def compression_ratio(self) -> float:
        """Eq. 7: dense values over kept values, of this matrix alone; padding is not counted as dense."""
        return self.matrix.parameters / self.parameters

    @property
    def multiply_adds(self) -> int:
        """Of `apply`, for one row."""
        return self.copies * self.structure.multiply_adds

    @property
    def padded_input(self) -> int:
        """Product of the input modes: the input size, or more where it was padded with zeros."""
        return prod(self.structure.in_modes)

    @property
    def padded_hidden(self) -> int:
        """Rows that each gate takes in the structure: the hidden size, or more where it was padded."""
        return prod(self.structure.out_modes) // (1 if self.per_gate else self.matrix.gates)

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from a plain reshape, in words."""
        pads = (
            ("inputs", self.matrix.columns, self.padded_input),
            ("hidden units per gate", self.matrix.gate_rows, self.padded_hidden),
        )
        padding = tuple(
            f"{what} zero-padded from {size:,} to {padded:,}" for what, size, padded in pads if size != padded
        )
        if not self.asked_ranks:
            return padding
        asked, kept = (",".join(map(str, ranks)) for ranks in (self.asked_ranks, self.structure.ranks))
        return (*padding, f"ranks lowered from {asked} to {kept}: a bond carries no more")

    def to_dense(self, cores: Sequence[Tensor]) -> Tensor:
        """Return the weight as PyTorch stores it, (G*H, I), differentiable in the cores."""
        if self.structure.bottleneck:
            A, B = self.factors(cores)
            return B.T @ A.T
        import torch

        matrix = self.matrix
        parts = torch.stack([self.structure.to_dense(one) for one in self._gate_cores(cores)])
        dense = parts[..., : matrix.columns, :]  # (copies, I, G*P / copies)
        grid = dense.transpose(-2, -1).reshape(matrix.gates, self.padded_hidden, matrix.columns)
        return grid[:, : matrix.gate_rows].reshape(matrix.rows, matrix.columns)

    def apply(self, cores: Sequence[Tensor], x: Tensor) -> Tensor:
        """Multiply inputs with the weight: (..., I) -> (..., G*H), from the cores alone."""
        import torch
        from torch.nn import functional as F

        matrix = self.matrix
        flat = F.pad(x, (0, self.padded_input - matrix.columns)).reshape(-1, self.padded_input)
        parts = [self.structure.apply(one, flat) for one in self._gate_cores(cores)]
        wide = torch.cat(parts, 1) if self.per_gate else parts[0]
        gates = wide.view(-1, matrix.gates, self.padded_hidden)[:, :, : matrix.gate_rows]
        return gates.reshape(*x.shape[:-1], matrix.rows)

    def factors(self, cores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the ring's two matrices: A (I, K) and B (K, G*H), with A @ B the transposed weight.

        One ring per gate: the A's stand side by side, the B's form a block diagonal, so K is G times a gate's own.

        Raises:
            ShapeError: the structure is not a tensor ring.
        """
        import torch

        matrix = self.matrix
        ring = as_ring(self.structure, f"{self.name}: only a tensor ring has two factors")
        A = ring.input_factor(cores)[..., : matrix.columns, :]
        B = ring.output_factor(cores)
        if self.per_gate:
            B = B[..., : matrix.gate_rows]  # (G, K, H)
            return A.movedim(0, 1).flatten(1), torch.block_diag(*B)
        grid = B.reshape(-1, matrix.gates, self.padded_hidden)[..., : matrix.gate_rows]  # (K, G, H)
        return A, grid.reshape(-1, matrix.rows)

    def mean_square(self, cores: Sequence[Tensor]) -> Tensor:
        """Return the mean of the squared entries of the dense weight, in float64; only padding expands it."""
        exact = [core.detach().double() for core in cores]
        if self.structure.bottleneck:
            A, B = self.factors(exact)
            return ((A.T @ A) * (B @ B.T)).sum() / self.matrix.parameters
        if self.per_gate or (self.padded_input, self.padded_hidden) != (self.matrix.columns, self.matrix.gate_rows):
            return self.to_dense(exact).square().mean()
        return self.structure.squared_norm(exact) / self.matrix.parameters

    def _gate_cores(self, cores: Sequence[Tensor]) -> list[list[Tensor]]:
        """The cores of each structure: one list, or one per gate."""
        return [[core[g] for core in cores] for g in range(self.copies)] if self.per_gate else [list(cores)]
