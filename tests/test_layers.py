"""Ring layers against torch.nn carrying the dense weights: outputs, states, gradients, in every configuration."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from layer_cases import Case, assert_close, cases, compare
from torch import nn

from trcompress.layers import (
    BTLSTM,
    TRGRU,
    TRLSTM,
    TRRNN,
    TTLSTM,
    TRGRUCell,
    TRLinear,
    TRLSTMCell,
    TRRNNCell,
    TTLinear,
    from_dense,
    module_matrices,
    to_dense_module,
)
from trcompress.layers.evaluation import STRATEGIES
from trcompress.model.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
PAIRS = [(TRLSTM, nn.LSTM), (TRGRU, nn.GRU), (TRRNN, nn.RNN)]
CELL_PAIRS = [(TRLSTMCell, nn.LSTMCell), (TRGRUCell, nn.GRUCell), (TRRNNCell, nn.RNNCell)]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_equals_torch(case):
    compare(case)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases((torch.float64,)))
def test_equals_torch_in_many_configurations(case):
    compare(case)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("ring_type", "dense_type"), PAIRS)
def test_full_ring_is_the_trained_layer(ring_type, dense_type, strategy):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        torch.manual_seed(0)
        dense = dense_type(12, 16, dtype=dtype)
        ring = with_weight(dense, dense.weight_ih_l0)
        ring.strategy = strategy
        case = Case(ring, torch.randn(5, 3, 12, dtype=dtype, requires_grad=True), None, tolerance, True)
        assert_close(ring(case.x), dense(case.x), tolerance)
        compare(case)


@pytest.mark.parametrize(("ring_type", "dense_type"), PAIRS[:2])
def test_permuted_gates_fail(ring_type, dense_type):
    dense = dense_type(12, 8, dtype=torch.float64)
    gates = dense.weight_ih_l0.detach().chunk(dense.weight_ih_l0.shape[0] // 8)
    ring = with_weight(dense, torch.cat([gates[1], gates[0], *gates[2:]]))
    x = torch.randn(5, 3, 12, dtype=torch.float64)
    assert (ring(x)[0] - dense(x)[0]).abs().max() > 1e-3


def with_weight(dense, weight):
    """A ring layer with K = 12 inputs that stands exactly for `weight`."""
    (plan,) = Plan.of(f"12:{weight.shape[0]}", "full").resolve(module_matrices(dense, ""))
    ring = from_dense(dense, {plan.name: plan})
    identity = torch.eye(12, dtype=weight.dtype)
    ring.weight_ih_l0.set_cores([identity[None], weight.detach().T[..., None]])
    return ring


@pytest.mark.parametrize(("ring_type", "dense_type"), CELL_PAIRS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cells_equal_torch(ring_type, dense_type, strategy):
    torch.manual_seed(0)
    ring = ring_type(12, 8, shape="3x4:2x4", ranks="2,3", dtype=torch.float64)
    ring.strategy = strategy
    dense = to_dense_module(ring)
    assert type(dense) is dense_type
    for sizes in ((3, 12), (12,)):
        x = torch.randn(*sizes, dtype=torch.float64)
        state = torch.randn(*sizes[:-1], 8, dtype=torch.float64)
        for hx in (None, (state, state + 1) if ring_type is TRLSTMCell else state):
            assert_close(ring(x, hx), dense(x, hx), 1e-10)


def test_a_cells_loop_has_the_gradients_of_the_dense_one():
    ring = TRGRUCell(12, 8, shape="3x4:2x4", ranks=2, dtype=torch.float64)
    dense = to_dense_module(ring)
    hx, want = (torch.zeros(3, 8, dtype=torch.float64) for _ in range(2))
    for x in torch.randn(6, 3, 12, dtype=torch.float64):
        hx, want = ring(x, hx), dense(x, want)
    carried = torch.autograd.grad(want.sum(), [dense.weight_ih])
    expected = torch.autograd.grad(ring.weight_ih.to_dense(), list(ring.weight_ih.core), carried)
    assert_close(torch.autograd.grad(hx.sum(), list(ring.weight_ih.core)), expected, 1e-10)


@pytest.mark.parametrize("make", [TRLinear, TTLinear])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_linear_layers(make, bias, strategy):
    torch.manual_seed(0)
    layer = make(23, 11, bias, shape="4x6:3x4", ranks=2, dtype=torch.float64)
    layer.strategy = strategy
    x = torch.randn(2, 5, 23, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.to_dense()
    want = nn.functional.linear(x, weight, layer.bias)
    assert_close(layer(x), want, 1e-10)
    assert_close(layer(x[0, 0]), want[0, 0], 1e-10)
    leaves = [x, *layer.parameters()]
    assert_close(
        torch.autograd.grad(layer(x).square().sum(), leaves), torch.autograd.grad(want.square().sum(), leaves), 1e-9
    )
    with pytest.raises(RuntimeError, match="in_features 23"):
        layer(torch.zeros(2, 22, dtype=torch.float64))


def test_counts_of_the_paper():
    ring = TRLSTM(57600, 256, shape="4x2x5x8x6x5x3x2:4x4x2x4x2", ranks="5,10", device="meta")
    train = TTLSTM(57600, 256, shape="8x20x20x18:4x4x4x4", rank=4, device="meta")
    blocks = BTLSTM(57600, 256, shape="8x20x20x18:4x4x4x4", rank=4, device="meta")
    counts = [sum(core.numel() for core in layer.weight_ih_l0.core) for layer in (ring, train, blocks)]
    assert counts == [1725, 3360, 3392]


@pytest.mark.parametrize("layer_type", [TRLSTM, TRGRU, TRRNN])
def test_gradcheck(layer_type):
    torch.manual_seed(0)
    layer = layer_type(4, 2, bidirectional=True, shape="2x2:2", ranks="1,2", dtype=torch.float64)
    x = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    for strategy in STRATEGIES:
        layer.strategy = strategy
        assert torch.autograd.gradcheck(lambda x, *_: layer(x)[0], (x, *layer.parameters()))


def test_second_derivatives():
    torch.manual_seed(0)
    layer = TRGRU(4, 2, shape="2x2:2", ranks=2, dtype=torch.float64)
    x = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    for strategy in ("ring", "merged", "dense"):
        layer.strategy = strategy
        assert torch.autograd.gradgradcheck(lambda x, *_: layer(x)[0], (x, *layer.parameters()))


def test_dropout_between_layers_is_torchs():
    torch.manual_seed(0)
    ring = TRLSTM(12, 8, 3, batch_first=True, dropout=0.5, shape="3x4:2x4", ranks=2, dtype=torch.float64)
    upper = TRLSTM(8, 8, 3, batch_first=True, dropout=0.5, shape="4x2:2x4", ranks=2, dtype=torch.float64)
    for layer, size in ((ring, 12), (upper, 8)):
        dense = to_dense_module(layer)
        for strategy in ("merged", "dense"):
            layer.strategy = strategy
            x = torch.randn(4, 5, size, dtype=torch.float64)
            results = []
            for module in (layer, dense):
                torch.manual_seed(7)
                results.append(module(x))
            assert_close(*results, 1e-10)
            assert not torch.allclose(layer(x)[0], layer.eval()(x)[0])
            layer.train()


def test_compressed_layers_may_be_any():
    matrices = module_matrices(nn.GRU(8, 8, 3), "")
    for chosen in ([0], [1], [2], [0, 2], [1, 2]):
        plans = Plan.of("4x2:2x4", "2").resolve([matrices[at] for at in chosen])
        ring = TRGRU(8, 8, 3, weights={plan.name: plan for plan in plans}, dtype=torch.float64)
        assert sum("core" in name for name in ring.state_dict()) == 4 * len(chosen)
        x = torch.randn(5, 3, 8, dtype=torch.float64)
        assert_close(ring(x), to_dense_module(ring)(x), 1e-10)


def test_one_direction_alone():
    dense = nn.LSTM(12, 8, bidirectional=True, dtype=torch.float64)
    (plan,) = Plan.of("3x4:2x4", "2", layer="l0_reverse").resolve(module_matrices(dense, ""))
    ring = from_dense(dense, {plan.name: plan})
    ring.weight_ih_l0_reverse.reset_parameters(0.1)
    x = torch.randn(5, 3, 12, dtype=torch.float64)
    for strategy in STRATEGIES:
        ring.strategy = strategy
        assert_close(ring(x), to_dense_module(ring)(x), 1e-10)


@pytest.mark.parametrize("dense_type", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_from_dense_keeps_the_other_parameters(dense_type):
    dense = dense_type(12, 8).eval()
    before = torch.random.get_rng_state()
    plans = Plan.of("3x4:2x4", "2").resolve(module_matrices(dense, ""))
    ring = from_dense(dense, {plan.name: plan for plan in plans})
    assert torch.equal(before, torch.random.get_rng_state())
    assert not ring.training
    kept = {name: value for name, value in dense.state_dict().items() if name not in {p.name for p in plans}}
    ours = ring.state_dict()
    assert set(ours) - set(kept) == {f"{plans[0].name}.core.{k}" for k in range(4)}
    for name, value in kept.items():
        assert torch.equal(ours[name], value)
        assert ours[name].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("layer_type", [TTLSTM, BTLSTM])
def test_layers_that_make_their_own_plan_are_rebuilt_with_it(layer_type):
    layer = layer_type(12, 8, 2, batch_first=True, shape="3x4:4x2", rank=2)
    x = torch.randn(3, 5, 12)
    assert torch.equal(from_dense(layer, {})(x)[0], layer(x)[0])


def test_from_dense_keeps_settings():
    dense = nn.LSTM(12, 8, 2, False, True, 0.25, True, 3, dtype=torch.float64)
    dense.weight_hh_l0.requires_grad_(False)
    plans = Plan.of("3x4:2x4", "2").resolve(module_matrices(dense, ""))
    ring = from_dense(dense, {plan.name: plan for plan in plans})
    names = (
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
        "input_size",
        "hidden_size",
    )
    assert all(getattr(ring, name) == getattr(dense, name) for name in names)
    assert not ring.weight_hh_l0.requires_grad
    assert ring.weight_ih_l0.core[0].requires_grad
    relu = from_dense(nn.RNN(12, 8, nonlinearity="relu"), {})
    assert relu.nonlinearity == to_dense_module(relu).nonlinearity == "relu"


def test_positional_arguments_are_torchs():
    ring = TRRNN(12, 8, 2, "relu", False, True, 0.0, True, shape="3x4:2x4", ranks=2)
    same = nn.RNN(12, 8, 2, "relu", False, True, 0.0, True)
    assert (ring.mode, ring.bias, ring.batch_first, ring.bidirectional) == (
        same.mode,
        same.bias,
        same.batch_first,
        same.bidirectional,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        TRLSTM(12, 8, dropout=0.5, shape="3x4:2x4", ranks=2)
    assert any("dropout" in str(one.message) for one in caught)
