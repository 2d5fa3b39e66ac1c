"""What ring layers cost: operations, memory that autograd keeps, and which form the cost model takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from trcompress.layers import TRLSTM, to_dense_module
from trcompress.layers.evaluation import DENSE
from trcompress.layers.evaluation.cost import Use, dense_estimate, estimates, fastest_form
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Rule
from trcompress.util.memory import saved_bytes

FLAGSHIP = "4x2x5x8x6x5x3x2:4x4x2x4x2"


@pytest.fixture(scope="module")
def flagship():
    torch.manual_seed(0)
    return TRLSTM(57600, 256, shape=FLAGSHIP, ranks="5,10"), torch.randn(6, 16, 57600)


class Counter(TorchDispatchMode):
    """Lists the operations that PyTorch dispatches."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(func)
        return func(*args, **(kwargs or {}))


def dispatched(layer, x):
    with Counter() as counter:
        layer(x)[0].sum().backward()
    return len(counter.calls)


def test_a_training_step_dispatches_few_operations(flagship):
    """Thirteen cores are merged in ten joins; each takes a product forward, two back, and views."""
    layer, x = flagship
    small, z = nn.LSTM(50, 256), torch.randn(6, 16, 50, requires_grad=True)
    assert dispatched(layer, x) - dispatched(small, z) < 300


def test_autograd_keeps_less_than_an_eighth_of_the_input_beside_it(flagship):
    layer, x = flagship
    kept = saved_bytes(lambda: layer(x), [x, *layer.parameters()])
    assert 0.02 * x.nbytes < kept < 0.12 * x.nbytes
    dense = nn.LSTM(57600, 256)
    assert saved_bytes(lambda: dense(x), [x, *dense.parameters()]) > 0.07 * x.nbytes


def test_merged_cores_are_saved_only_for_an_input_that_wants_its_gradient(flagship):
    layer, x = flagship
    without = saved_bytes(lambda: layer(x), [x, *layer.parameters()])
    x = x.clone().requires_grad_()
    assert saved_bytes(lambda: layer(x), [x, *layer.parameters()]) > without + 4 * 25 * 1440


def test_nothing_is_kept_between_calls_with_gradients(flagship):
    layer, x = flagship
    for _ in range(2):
        layer(x)[0].sum().backward()
        assert layer.weight_ih_l0.kept_bytes == 0


def plan_of(inputs, hidden, shape, ranks, kind="lstm"):
    return Rule.parse(shape, ranks).resolve(Matrix.input_to_hidden("weight_ih_l0", kind, inputs, hidden))


@pytest.mark.parametrize("rows", [1, 16, 160, 1600, 25600])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_papers_cnn_setting_is_served_dense(rows, kind):
    """K = 1,920 of 2,048 inputs: every order of the ring costs more than the dense product."""
    plan = plan_of(2048, 2048, "64x32:32x64", "40,60,48,48", kind)
    use = Use(rows, repacks=kind == "lstm")
    assert fastest_form(plan, use) == DENSE
    assert all(one.macs > dense_estimate(plan, use).macs for one in estimates(plan, use)[1:])


@pytest.mark.parametrize("rows", [1, 96, 1600])
@pytest.mark.parametrize("training", [False, True])
def test_the_flagship_never_becomes_dense(rows, training):
    plan = plan_of(57600, 256, FLAGSHIP, "5,10")
    assert fastest_form(plan, Use(rows, training, repacks=True)).kind in ("ring", "merged")


@pytest.mark.parametrize("rows", [1, 10, 100, 1000, 10000])
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((40, 32), "5x8:4x8"), ((256, 256), "16x16:16x16"), ((2048, 256), "64x32:16x16"), ((57600, 256), FLAGSHIP)],
)
@pytest.mark.parametrize("ranks", ["1", "4", "16"])
def test_eval_is_never_priced_above_dense(rows, sizes, shape, ranks):
    plan, use = plan_of(*sizes, shape, ranks), Use(rows, repacks=True)
    priced = {one.form: one.seconds for one in estimates(plan, use)}
    assert priced[fastest_form(plan, use)] <= priced[DENSE]


def test_eval_materialises_what_is_cheaper_dense():
    torch.manual_seed(0)
    layer = TRLSTM(64, 64, shape="8x8:8x8", ranks=9).eval()
    x = torch.randn(5, 3, 64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], to_dense_module(layer)(x)[0], atol=1e-5, rtol=0)
    assert layer.strategy.chosen == {"weight_ih_l0": "dense"}
    copied = sum(core.numel() for core in layer.weight_ih_l0.core)
    assert layer.weight_ih_l0.kept_bytes == 4 * (64 * 256 + copied)


@pytest.mark.parametrize(("ranks", "tensor_operations"), [("3", 4), ("40", 0)])
def test_large_cores_are_compared_without_a_tensor_operation(ranks, tensor_operations):
    """torch.equal is for small cores; it takes five times as long as reading the memory of 16,000 values."""
    layer = TRLSTM(256, 256, shape="16x16:16x16", ranks=ranks).eval()
    x = torch.randn(1, 1, 256)
    with torch.no_grad():
        layer(x)
        with Counter() as counter:
            layer(x)
    assert counter.calls.count(torch.ops.aten.equal.default) == tensor_operations
    assert torch.ops.aten.clone.default not in counter.calls
