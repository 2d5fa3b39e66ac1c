"""Every form of a ring weight against Eq. 5 written out, forward and backward."""

from __future__ import annotations

import pytest
import torch
from reference import tensor_ring_dense

from trcompress.layers.evaluation.form import Form, Sizes
from trcompress.layers.evaluation.matrices import matrices
from trcompress.layers.evaluation.project import project
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan


def weight_plan(shape="3x2x4:2x3", ranks="2,3,4,2,3", gates="fused", matrix=None):
    matrix = matrix or Matrix.input_to_hidden("w", "gru", 24, 6)
    (plan,) = Plan.of(shape, ranks, gates=gates).resolve([matrix])
    return plan


def random_cores(plan, dtype=torch.float64):
    lead = (plan.copies,) if plan.per_gate else ()
    return [torch.nn.Parameter(torch.randn(*lead, *shape, dtype=dtype)) for shape in plan.structure.core_shapes]


def dense_by_definition(plan, cores):
    """(G*H, I) from Eq. 5, the slow way."""
    matrix = plan.matrix
    rings = [[core[g] for core in cores] for g in range(plan.copies)] if plan.per_gate else [list(cores)]
    wide = torch.cat([tensor_ring_dense(plan.structure, ring) for ring in rings], dim=1)
    grid = wide[: matrix.columns].T.reshape(matrix.gates, plan.padded_hidden, matrix.columns)
    return grid[:, : matrix.gate_rows].reshape(matrix.rows, matrix.columns)


def weight_of(plan, form, cores):
    """(G*H, I) from the matrices of a form: what it makes of every unit vector."""
    found = matrices(plan, form, cores)
    if form.kind == "dense":
        return found[0]
    S, V, *P = found
    bond = plan.structure.ranks[len(plan.structure.in_modes)]
    z = project(torch.eye(plan.matrix.columns, dtype=S.dtype), S, *P, bond=bond)
    assert z.shape[1] == V.shape[1] == Sizes.of(plan, form.split).width
    return (z @ V.T).T


CASES = {
    "fused": {},
    "per-gate": {"gates": "per-gate"},
    "padded outputs": {"matrix": Matrix.input_to_hidden("w", "gru", 24, 5)},
    "padded inputs": {"matrix": Matrix.input_to_hidden("w", "lstm", 23, 6)},
    "padded per gate": {"gates": "per-gate", "matrix": Matrix.input_to_hidden("w", "lstm", 23, 5)},
    "one core a side": {"shape": "24:6", "ranks": "3"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["dense", "merged", "ring"])
def test_matrices_are_the_weight(case, kind):
    torch.manual_seed(0)
    plan = weight_plan(**CASES[case])
    padded = plan.padded_input != plan.matrix.columns
    n = len(plan.structure.in_modes)
    splits = range(1, n) if kind == "ring" and not padded else [0]
    for split in splits:
        cores = random_cores(plan)
        got, want = weight_of(plan, Form(kind, split), cores), dense_by_definition(plan, cores)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
        probe = torch.randn_like(want)
        mine = torch.autograd.grad((got * probe).sum(), cores)
        theirs = torch.autograd.grad((want * probe).sum(), cores)
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "merged", "ring"])
def test_gradcheck(kind):
    torch.manual_seed(0)
    plan = weight_plan("2x2:2x2", "2", matrix=Matrix.input_to_hidden("w", "gru", 4, 4))
    cores, form = random_cores(plan), Form(kind, 1 if kind == "ring" else 0)

    def weight(*cores):
        return weight_of(plan, form, cores)

    assert torch.autograd.gradcheck(weight, cores)
    assert torch.autograd.gradgradcheck(weight, cores)
