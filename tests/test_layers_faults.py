"""Faults of ring layers are of torch.nn's types."""

from __future__ import annotations

import pytest
import torch
from layer_cases import small
from torch.nn.utils.rnn import pack_sequence

from trcompress.errors import ShapeError, UsageError
from trcompress.layers import TRGRU, TRLSTM, TRLinear, TRLSTMCell, to_dense_module

ERRORS = {
    "features": (
        lambda layer: layer(torch.zeros(5, 3, 11)),
        RuntimeError,
        r"input_size 12: got shape \(5, 3, 11\)",
    ),
    "dimensions": (lambda layer: layer(torch.zeros(5, 3, 2, 12)), ValueError, "2-D .unbatched. or 3-D"),
    "dtype": (lambda layer: layer(torch.zeros(5, 3, 12).double()), ValueError, "float64.*float32.*input.to"),
    "state size": (
        lambda layer: layer(torch.zeros(5, 3, 12), torch.zeros(1, 2, 8)),
        RuntimeError,
        r"size \(1, 3, 8\)",
    ),
    "state dims": (lambda layer: layer(torch.zeros(5, 3, 12), torch.zeros(3, 8)), RuntimeError, "3-D: got 2-D"),
    "unbatched": (lambda layer: layer(torch.zeros(5, 12), torch.zeros(1, 1, 8)), RuntimeError, "2-D: got 3-D"),
    "packed": (lambda layer: layer(pack_sequence([torch.zeros(5, 11)])), RuntimeError, "input_size 12"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_errors_are_of_torchs_types(fault):
    call, kind, message = ERRORS[fault]
    ring = small(TRGRU)
    with pytest.raises(kind):
        call(to_dense_module(ring))
    with pytest.raises(kind, match=message):
        call(ring)


def test_faults_of_construction():
    with pytest.raises(UsageError, match="either shape and ranks, or plan, or weights"):
        TRLSTM(12, 8)
    with pytest.raises(UsageError, match="either shape and ranks"):
        TRLSTM(12, 8, shape="3x4:2x4")
    with pytest.raises(ShapeError, match="fits no layer"):
        TRLSTM(12, 8, shape="3x3:2x4", ranks=2)
    with pytest.raises(UsageError, match="gates must be one of fused, per-gate: got 'none'"):
        TRLSTM(12, 8, shape="3x4:2x4", ranks=2, gates="none")
    names = r"\(weight_ih_l0, weight_hh_l0\)"
    with pytest.raises(UsageError, match=rf"must name weights of the layer {names}: got 'weight_ih_l1'"):
        TRLSTM(12, 8, weights={"weight_ih_l1": small().weight_ih_l0.plan})
    with pytest.raises(ShapeError, match=r"\(24, 4, 8\): got \(12, 4, 8\)"):
        TRLSTM(24, 8, weights={"weight_ih_l0": small().weight_ih_l0.plan})
    with pytest.raises(ShapeError, match="takes 4 cores of shapes"):
        small().weight_ih_l0.set_cores([torch.zeros(2, 3, 2)])
    with pytest.raises(ValueError, match="hidden_size"):
        TRLSTM(12, 0, shape="3x4:2x4", ranks=2)
    with pytest.raises(ShapeError, match="3x5"):
        TRLinear(20, 8, shape="3x5:8", ranks=2)
    cell = TRLSTMCell(12, 8, shape="3x4:2x4", ranks=2)
    with pytest.raises(ValueError, match=r"1-D .unbatched. or 2-D"):
        cell(torch.zeros(1, 2, 12))
    with pytest.raises(RuntimeError, match="input_size 12"):
        cell(torch.zeros(2, 11))
