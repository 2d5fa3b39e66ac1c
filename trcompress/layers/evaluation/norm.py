"""The mean square of a weight from its cores, without expanding it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trcompress.formats import BlockTerm, TensorRing
from trcompress.layers.evaluation.expand import cores_to_dense, ring_factors
from trcompress.model.plan import WeightPlan


def mean_square(plan: WeightPlan, cores: Sequence[Tensor]) -> Tensor:
    """Return the mean of the squared entries of the dense weight, in float64."""
    exact = [core.detach().double() for core in cores]
    matrix, structure = plan.matrix, plan.structure
    if isinstance(structure, TensorRing):
        A, B = ring_factors(plan, exact)
        return ((A.T @ A) * (B @ B.T)).sum() / matrix.parameters
    padded = (plan.padded_input, plan.padded_hidden) != (matrix.columns, matrix.gate_rows)
    if padded or plan.per_gate:
        return cores_to_dense(plan, exact).square().mean()
    square = _block_square(exact) if isinstance(structure, BlockTerm) else _train_square(exact)
    return square / matrix.parameters


def _train_square(cores: Sequence[Tensor]) -> Tensor:
    """Sum of squares of an open chain: carry the Gram matrix of the bond along."""
    gram = cores[0].new_ones(1, 1)
    for core in cores:
        gram = torch.einsum("ab,anc,bnd->cd", gram, core, core)
    return gram.squeeze()


def _block_square(cores: Sequence[Tensor]) -> Tensor:
    """Sum of squares of a sum of Tucker terms: each pair of terms through the Gram matrices of its factors."""
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
