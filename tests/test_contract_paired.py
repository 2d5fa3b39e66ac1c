"""Trains and block terms: inputs times the weight, against the dense weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trcompress.errors import ShapeError
from trcompress.formats import BlockTerm, TensorRing, TensorTrain
from trcompress.model.matrix import Matrix
from trcompress.model.weight_plan import WeightPlan


def cores_of(plan):
    lead = (plan.copies,) if plan.per_gate else ()
    shapes = plan.structure.core_shapes
    return [torch.randn(*lead, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@st.composite
def paired_plans(draw):
    d = draw(st.integers(1, 4))
    modes = st.lists(st.integers(1, 4), min_size=d, max_size=d)
    in_modes, out_modes = draw(modes), draw(modes)
    gates, per_gate = draw(st.sampled_from([(1, False), (3, False), (4, True)]))
    if not per_gate:
        out_modes[0] *= gates
    inputs, hidden = 1, 1
    for size in in_modes:
        inputs *= size
    for size in out_modes:
        hidden *= size
    hidden //= 1 if per_gate else gates
    rank = draw(st.integers(1, 3))
    if draw(st.booleans()):
        ranks = (1, *[rank] * (d - 1), 1)
        structure = TensorTrain(tuple(in_modes), tuple(out_modes), ranks)
    else:
        structure = BlockTerm(tuple(in_modes), tuple(out_modes), rank, draw(st.integers(1, 3)))
    columns, gate_rows = max(1, inputs - draw(st.integers(0, 2))), max(1, hidden - draw(st.integers(0, 1)))
    matrix = Matrix("w", "ih", gates * gate_rows, columns, gates)
    return WeightPlan(matrix, structure, per_gate)


@settings(max_examples=60, deadline=None)
@given(paired_plans())
def test_product_is_the_dense_one(plan):
    torch.manual_seed(0)
    cores, x = cores_of(plan), torch.randn(2, 3, plan.matrix.columns, dtype=torch.float64, requires_grad=True)
    got = plan.apply(cores, x)
    want = x @ plan.to_dense(cores).T
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    probe = torch.randn_like(want)
    ours = torch.autograd.grad((got * probe).sum(), [x, *cores])
    theirs = torch.autograd.grad((want * probe).sum(), [x, *cores])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)
    assert plan.multiply_adds > 0


def test_rings_are_applied_through_their_bottleneck():
    for per_gate, out_modes in ((False, (6, 2)), (True, (2, 2))):
        plan = WeightPlan(
            Matrix.input_to_hidden("w", "gru", 7, 3), TensorRing((4, 2), out_modes, (2, 3, 2, 2, 2)), per_gate
        )
        cores, x = cores_of(plan), torch.randn(5, 7, dtype=torch.float64)
        torch.testing.assert_close(plan.apply(cores, x), x @ plan.to_dense(cores).T, rtol=0, atol=1e-10)


def test_only_rings_have_two_factors():
    plan = WeightPlan(Matrix.input_to_hidden("w", "rnn", 4, 4), TensorTrain((4,), (4,), (1, 1)))
    with pytest.raises(ShapeError, match="only a tensor ring has two factors: got a tensor-train"):
        plan.factors(cores_of(plan))
