"""Ring layers against torch.nn carrying the dense weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trcompress.layers import (
    TRGRU,
    TRLSTM,
    TRRNN,
    TRGRUCell,
    TRLSTMCell,
    TRRNNCell,
    from_dense,
    slots_of,
    to_dense_module,
)
from trcompress.plan import Plan

PAIRS = [(TRLSTM, nn.LSTM), (TRGRU, nn.GRU), (TRRNN, nn.RNN)]
CELL_PAIRS = [(TRLSTMCell, nn.LSTMCell), (TRGRUCell, nn.GRUCell), (TRRNNCell, nn.RNNCell)]


def tensors(value):
    """Flatten nested outputs into a list of tensors."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value if part is not None for tensor in tensors(part)]


@pytest.mark.parametrize(("ring_type", "dense_type"), PAIRS)
@pytest.mark.parametrize("gates", ["fused", "per-gate"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_torch(ring_type, dense_type, gates, bidirectional):
    torch.manual_seed(0)
    ring = ring_type(
        12, 8, 2, bidirectional=bidirectional, shape="3x4:2x4", ranks="2,3", gates=gates, dtype=torch.float64
    )
    dense = to_dense_module(ring)
    assert type(dense) is dense_type
    x = torch.randn(5, 3, 12, dtype=torch.float64)
    for ours, theirs in zip(tensors(ring(x)), tensors(dense(x)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("ring_type", "dense_type"), CELL_PAIRS)
def test_cells_equal_torch(ring_type, dense_type):
    ring = ring_type(12, 8, shape="3x4:2x4", ranks="2,3", dtype=torch.float64)
    dense = to_dense_module(ring)
    assert type(dense) is dense_type
    for x in (torch.randn(3, 12, dtype=torch.float64), torch.randn(12, dtype=torch.float64)):
        for ours, theirs in zip(tensors(ring(x)), tensors(dense(x)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dense_type", [nn.LSTM, nn.GRU, nn.RNN])
def test_from_dense_keeps_the_other_parameters(dense_type):
    dense = dense_type(12, 8, 2, batch_first=True).eval()
    plans = Plan.of("3x4:2x4", "2").resolve(slots_of(dense, ""))
    ring = from_dense(dense, {plan.name: plan for plan in plans})
    assert not ring.training
    assert ring.batch_first
    kept = {name: value for name, value in dense.state_dict().items() if name not in {p.name for p in plans}}
    ours = ring.state_dict()
    assert set(ours) - set(kept) == {f"weight_ih_l0.core.{k}" for k in range(4)}
    for name, value in kept.items():
        assert torch.equal(ours[name], value)
