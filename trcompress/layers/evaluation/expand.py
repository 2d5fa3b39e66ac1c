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
    slot = plan.slot
    if isinstance(plan.structure, TensorRing):
        A, B = ring_factors(plan, cores)
        return B.T @ A.T
    dense = _expand(plan, cores)[..., : slot.input_size, :]  # (copies, I, G*P / copies)
    grid = dense.transpose(-2, -1).reshape(slot.gates, plan.padded_hidden, slot.input_size)
    return grid[:, : slot.hidden_size].reshape(slot.output_size, slot.input_size)


def ring_factors(plan: WeightPlan, cores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the ring's two matrices: A (I, K) and B (K, G*H), with A @ B the transposed weight.

    One ring per gate: the A's stand side by side, the B's form a block diagonal, so K is G times a gate's own.

    Raises:
        ShapeError: the plan's structure is not a tensor ring.
    """
    slot, ring = plan.slot, plan.structure
    if not isinstance(ring, TensorRing):
        raise ShapeError(f"only a tensor ring has two factors: {plan.name} is a {ring.kind}")
    A = ring.input_factor(cores)[..., : slot.input_size, :]
    B = ring.output_factor(cores)
    if plan.per_gate:
        B = B[..., : slot.hidden_size]  # (G, K, H)
        return A.movedim(0, 1).flatten(1), torch.block_diag(*B)
    grid = B.reshape(-1, slot.gates, plan.padded_hidden)[..., : slot.hidden_size]  # (K, G, H)
    return A, grid.reshape(-1, slot.output_size)


def _expand(plan: WeightPlan, cores: Sequence[Tensor]) -> Tensor:
    if not plan.per_gate:
        return plan.structure.to_dense(cores)
    return torch.stack([plan.structure.to_dense([core[g] for core in cores]) for g in range(plan.copies)])
