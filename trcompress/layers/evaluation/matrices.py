"""The few matrices that one form of a weight needs, computed from its cores by ordinary autograd.

    ring      y = x (N*p, s) @ S (s, C)
              z[n, (c, r0, rn)] = sum over p, rs of  y[n, p, (c, rs, rn)] * P[c, r0, p, rs]
    merged    z = x (N, I) @ S (I, K)
    dense     W (G*H, I)

z (N, K) feeds the recurrent kernel with V (G*H, K) as its input weight. C and K are rounded up with zeros where
thin products gain by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from trcompress.formats.chain import merge
from trcompress.layers.evaluation.form import Form, Sizes
from trcompress.model.weight_plan import WeightPlan

EXACT = (torch.float32, torch.float64)
"""Types in which cores are merged as they are; narrower ones are merged in float32."""


def matrices(plan: WeightPlan, form: Form, cores: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Compute the matrices of a form.

    Args:
        plan: the weight.
        form: which matrices; a format other than a ring has the dense one alone.
        cores: as in the plan's structure.

    Returns:
        (W,), (S, V) or (S, V, P), in the type of the cores.
    """
    dtype = cores[0].dtype
    exact = list(cores) if dtype in EXACT else [core.float() for core in cores]
    if form.kind == "dense" or plan.structure.bottleneck is None:
        found: list[Tensor] = [plan.to_dense(exact)]
    else:
        sizes, stop = Sizes.of(plan, form.split), len(plan.structure.in_modes)
        found = [_input_matrix(sizes, exact[form.split : stop]), _output_matrix(plan, form, sizes, exact[stop:])]
        if form.split:
            found.append(_batched(merge(exact[: form.split])))  # (copies, r_0, prefix, r_s)
    return tuple(matrix.to(dtype) for matrix in found)


def _input_matrix(sizes: Sizes, cores: Sequence[Tensor]) -> Tensor:
    """S (suffix, C): the merged cores right of the cut."""
    merged = _batched(merge(cores))[:, :, : sizes.suffix]  # (copies, r_s, suffix, r_n)
    S = merged.permute(2, 0, 1, 3).flatten(1)
    return F.pad(S, (0, sizes.columns - S.shape[1]))


def _output_matrix(plan: WeightPlan, form: Form, sizes: Sizes, cores: Sequence[Tensor]) -> Tensor:
    """V (G*H, columns), with zeros where the kernel's input holds the other direction's values."""
    matrix, merged = plan.matrix, merge(cores)
    if plan.per_gate:  # (G, r_n, H, r_0)
        gates = merged[:, :, : matrix.gate_rows].permute(0, 2, 3, 1).flatten(2)
        V = torch.block_diag(*gates)
    else:
        grid = merged.view(merged.shape[0], matrix.gates, plan.padded_hidden, -1)[:, :, : matrix.gate_rows]
        V = grid.permute(1, 2, 3, 0).reshape(matrix.rows, -1)
    return F.pad(V, (form.offset, (form.columns or sizes.width) - form.offset - V.shape[1]))


def _batched(core: Tensor) -> Tensor:
    """(copies, r, n, r') of a core with or without a leading dimension."""
    return core.view(-1, *core.shape[-3:])
