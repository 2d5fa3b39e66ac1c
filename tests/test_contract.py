"""Every form of a ring weight against Eq. 5 written out, forward and backward."""

from __future__ import annotations

import pytest
import torch
from reference import tensor_ring_dense

from trcompress.layers.evaluation.cache import MatrixCache
from trcompress.layers.evaluation.form import Form
from trcompress.layers.evaluation.matrices import plain_matrices
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


def dense_of(form, matrices):
    """(G*H, I) from the matrices of a form."""
    if form.kind == "dense":
        return matrices[0]
    S, V, *Q = matrices
    if not Q:
        return V @ S.T
    return V @ torch.einsum("ic,pck->kpi", S, Q[0].view(-1, S.shape[1], V.shape[1])).flatten(1)


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
@pytest.mark.parametrize("build", ["kept", "passing", "plain"])
def test_matrices_are_the_weight(case, kind, build):
    torch.manual_seed(0)
    plan = weight_plan(**CASES[case])
    padded = plan.padded_input != plan.matrix.columns
    n = len(plan.structure.in_modes)
    splits = range(1, n) if kind == "ring" and not padded else [0]
    for split in splits:
        form, cores = Form(kind, split), random_cores(plan)
        cache = MatrixCache(plan)
        matrices = (
            plain_matrices(plan, form, cores) if build == "plain" else cache.get(form, cores, build == "kept")
        )
        want = dense_by_definition(plan, cores)
        torch.testing.assert_close(dense_of(form, matrices), want, rtol=0, atol=1e-10)
        probe = torch.randn_like(want)
        got = torch.autograd.grad((dense_of(form, matrices) * probe).sum(), cores)
        expected = torch.autograd.grad((want * probe).sum(), cores)
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "merged", "ring"])
def test_gradcheck(kind):
    torch.manual_seed(0)
    plan = weight_plan("2x2:2x2", "2", matrix=Matrix.input_to_hidden("w", "gru", 4, 4))
    cores = random_cores(plan)
    form = Form(kind, 1 if kind == "ring" else 0)
    cache = MatrixCache(plan)

    def weight(*cores):
        return dense_of(form, cache.get(form, cores))

    assert torch.autograd.gradcheck(weight, cores)
    assert torch.autograd.gradgradcheck(weight, cores)
