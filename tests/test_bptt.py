"""Backpropagation through time by hand against torch.nn: outputs, states, gradients, and the gradients of those."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trcompress.layers import TRGRU, TRLSTM, to_dense_module
from trcompress.layers.recurrence import suits, through_time
from trcompress.layers.recurrence.stack import pays

KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}
INPUTS, HIDDEN = 5, 4


def module(mode, **options):
    if mode == "RNN_RELU":
        options["nonlinearity"] = "relu"
    return KINDS[mode](INPUTS, HIDDEN, dtype=torch.float64, **options)


def states_of(dense, batch):
    rows = dense.num_layers * (2 if dense.bidirectional else 1)
    made = [torch.randn(rows, batch, HIDDEN, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return tuple(made) if dense.mode == "LSTM" else made[0]


def run(dense, x, hx=None):
    settings = (dense.bias, dense.num_layers, dense.dropout, dense.training, dense.bidirectional)
    return through_time(dense.mode, x, hx, list(dense.parameters()), settings)


def flat(outputs):
    return [tensor for one in outputs for tensor in (one if isinstance(one, tuple) else (one,))]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), mode=st.sampled_from([*KINDS]), steps=st.integers(1, 5), batch=st.integers(1, 3))
def test_equals_torch(data, mode, steps, batch):
    options = {name: data.draw(st.booleans(), label=name) for name in ("bias", "bidirectional")}
    dense = module(mode, num_layers=data.draw(st.integers(1, 3)), **options)
    x = torch.randn(steps, batch, INPUTS, dtype=torch.float64)
    if data.draw(st.booleans(), label="swapped"):
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    x.requires_grad_()
    hx = states_of(dense, batch) if data.draw(st.booleans(), label="given states") else None
    ours, theirs = flat(run(dense, x, hx)), flat(dense(x, hx))
    used = [at for at in range(len(ours)) if at == 0 or data.draw(st.booleans(), label="state is used")]
    probes = [torch.randn_like(one) for one in theirs]
    leaves = [x, *dense.parameters(), *(flat([hx]) if hx is not None else [])]

    def gradients(outputs):
        return torch.autograd.grad(sum((outputs[at] * probes[at]).sum() for at in used), leaves)

    for mine, other in zip([*ours, *gradients(ours)], [*theirs, *gradients(theirs)], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", KINDS)
def test_a_final_state_alone_has_its_gradient(mode):
    dense, x = module(mode, bidirectional=True), torch.randn(4, 2, INPUTS, dtype=torch.float64)
    for which in range(1, len(flat(dense(x)))):
        ours, theirs = (flat(outputs)[which].square().sum() for outputs in (run(dense, x), dense(x)))
        leaves = list(dense.parameters())
        for mine, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("given_states", [False, True])
def test_first_and_second_derivatives(mode, steps, given_states):
    torch.manual_seed(0)
    dense, x = module(mode), torch.randn(steps, 2, INPUTS, dtype=torch.float64, requires_grad=True)
    hx = states_of(dense, 2) if given_states else None
    inputs = [x, *dense.parameters(), *(flat([hx]) if given_states else [])]

    def call(x, *rest):
        state = None if not given_states else rest[4:] if mode == "LSTM" else rest[4]
        return through_time(mode, x, state, rest[:4], (True, 1, 0.0, True, False))

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_frozen_weights_get_no_gradient():
    dense, x = module("GRU"), torch.randn(3, 2, INPUTS, dtype=torch.float64)
    dense.weight_hh_l0.requires_grad_(False)
    dense.bias_ih_l0.requires_grad_(False)
    run(dense, x)[0].sum().backward()
    assert [p.grad is None for p in dense.parameters()] == [False, True, True, False]


@pytest.mark.parametrize("mode", KINDS)
def test_a_weight_changed_before_the_way_back_is_an_error(mode):
    dense, x = module(mode), torch.randn(3, 2, INPUTS, dtype=torch.float64)
    loss = run(dense, x)[0].sum()
    with torch.no_grad():
        dense.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("mode", KINDS)
def test_outputs_may_be_changed_in_place(mode):
    """Nothing that is kept for the way back shares memory with what the caller gets, batch 1 included."""
    dense, x = module(mode), torch.randn(3, 1, INPUTS, dtype=torch.float64)
    clean = torch.autograd.grad(run(dense, x)[0].sum(), list(dense.parameters()))
    outputs = run(dense, x)
    loss = outputs[0].sum()
    with torch.no_grad():
        for one in outputs:
            one.zero_()
    for mine, other in zip(torch.autograd.grad(loss, list(dense.parameters())), clean, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("mode", KINDS)
def test_graphs_can_be_run_twice(mode):
    dense, x = module(mode), torch.randn(3, 2, INPUTS, dtype=torch.float64)
    loss = run(dense, x)[0].square().sum()
    once = torch.autograd.grad(loss, list(dense.parameters()), retain_graph=True)
    for mine, other in zip(torch.autograd.grad(loss, list(dense.parameters())), once, strict=True):
        assert torch.equal(mine, other)


def test_dropout_is_between_layers():
    torch.manual_seed(0)
    dense = module("GRU", num_layers=2, dropout=0.5)
    x = torch.randn(3, 2, INPUTS, dtype=torch.float64)
    assert not torch.equal(run(dense, x)[0], run(dense, x)[0])
    torch.testing.assert_close(run(dense.eval(), x)[0], dense(x)[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w: (x.to("meta"), w),
        lambda x, w: (x.half(), [one.half() for one in w]),
        lambda x, w: (x.float(), w),
        lambda x, w: (x[:, :0], w),
        lambda x, w: (x, [one.detach() for one in w]),
    ],
    ids=["meta", "half", "mixed types", "empty batch", "nothing to train"],
)
def test_unusual_cases_are_left_to_torch(change):
    dense, x = module("GRU"), torch.randn(3, 2, INPUTS, dtype=torch.float64)
    weights = list(dense.parameters())
    assert suits("GRU", x, None, weights, 0)
    x, weights = change(x, weights)
    assert not suits("GRU", x, None, weights, 0)


def test_mode_and_context_decide():
    x, weights = torch.randn(3, 2, INPUTS), [*nn.GRU(INPUTS, HIDDEN).parameters()]
    assert suits("GRU", x, None, weights, 0)
    assert not suits("LSTM", x, None, weights, 0)  # small, several steps: oneDNN is faster
    assert not suits("GRU", x, None, weights, 3)  # a projection
    with torch.no_grad():
        assert not suits("GRU", x, None, weights, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits("GRU", x, None, weights, 0)
    assert pays("LSTM", 10, 1, 2048)
    assert not pays("LSTM", 100, 16, 256)
    assert pays("GRU", 100, 64, 256)
    assert not pays("GRU", 100, 256, 256)


@pytest.mark.parametrize(("kind", "hidden", "steps"), [(TRLSTM, 256, 3), (TRLSTM, 128, 1), (TRGRU, 16, 4)])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("strategy", ["auto", "merged", "dense"])
def test_training_equals_torch_step_by_step(kind, hidden, steps, batch_first, strategy):
    """Ring layers take this way, at the first step and at prepared ones; the cores change in between."""
    torch.manual_seed(0)
    layer = kind(24, hidden, batch_first=batch_first, shape=f"4x6:{hidden // 8}x8", ranks=2, dtype=torch.float64)
    layer.strategy = strategy
    for batch in (2, 2, 2, 3, 3):
        x = torch.randn(batch, steps, 24) if batch_first else torch.randn(steps, batch, 24)
        dense, x = to_dense_module(layer), x.double().requires_grad_()
        weight = layer.weight_ih_l0.to_dense()
        ours, theirs = layer(x), dense(x)
        torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-10)
        dx, dW, dH = torch.autograd.grad(theirs[0].square().sum(), [x, dense.weight_ih_l0, dense.weight_hh_l0])
        layer.zero_grad()
        ours[0].square().sum().backward()
        torch.testing.assert_close(x.grad, dx, rtol=0, atol=1e-8)
        torch.testing.assert_close(layer.weight_hh_l0.grad, dH, rtol=0, atol=1e-8)
        carried = torch.autograd.grad(weight, list(layer.weight_ih_l0.core), dW)
        for core, grad in zip(layer.weight_ih_l0.core, carried, strict=True):
            torch.testing.assert_close(core.grad, grad, rtol=0, atol=1e-8)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.sub_(1e-2 * parameter.grad)


def test_eval_gives_the_same_bits_with_and_without_gradients():
    torch.manual_seed(0)
    layer, x = TRGRU(24, 16, shape="4x6:4x4", ranks=2).eval(), torch.randn(4, 3, 24)
    with torch.no_grad():
        want = [layer(x)[0] for _ in range(2)]
    assert all(torch.equal(layer(x)[0], one) for one in want)
