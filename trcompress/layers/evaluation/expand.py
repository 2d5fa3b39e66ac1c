"""The matrices that a plan and its cores stand for, in PyTorch's orientation and with the padding cropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trcompress.errors import ShapeError
from trcompress.formats import TensorRing
from trcompress.model.plan import WeightPlan


def cores_to_dense(plan: WeightPlan, cores: Sequence[Tensor]) -> Tensor:
    """Return the weight as PyTorch stores it, (G*H, I), differentiable in the cores."""
    matrix = plan.matrix
    if isinstance(plan.structure, TensorRing):
        A, B = ring_factors(plan, cores)
        return B.T @ A.T
    dense = _expand(plan, cores)[..., : matrix.columns, :]  # (copies, I, G*P / copies)
    grid = dense.transpose(-2, -1).reshape(matrix.gates, plan.padded_hidden, matrix.columns)
    return grid[:, : matrix.gate_rows].reshape(matrix.rows, matrix.columns)


def ring_factors(plan: WeightPlan, cores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the ring's two matrices: A (I, K) and B (K, G*H), with A @ B the transposed weight.

    One ring per gate: the A's stand side by side, the B's form a block diagonal, so K is G times a gate's own.

    Raises:
        ShapeError: the plan's structure is not a tensor ring.
    """
    matrix, ring = plan.matrix, plan.structure
    if not isinstance(ring, TensorRing):
        raise ShapeError(f"only a tensor ring has two factors: {plan.name} is a {ring.kind}")
    A = ring.input_factor(cores)[..., : matrix.columns, :]
    B = ring.output_factor(cores)
    if plan.per_gate:
        B = B[..., : matrix.gate_rows]  # (G, K, H)
        return A.movedim(0, 1).flatten(1), torch.block_diag(*B)
    grid = B.reshape(-1, matrix.gates, plan.padded_hidden)[..., : matrix.gate_rows]  # (K, G, H)
    return A, grid.reshape(-1, matrix.rows)


def _expand(plan: WeightPlan, cores: Sequence[Tensor]) -> Tensor:
    if not plan.per_gate:
        return plan.structure.to_dense(cores)
    return torch.stack([plan.structure.to_dense([core[g] for core in cores]) for g in range(plan.copies)])
