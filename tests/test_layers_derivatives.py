"""Derivatives beyond one backward pass, as complete as torch.nn's: compiled, second, batched, forward."""

from __future__ import annotations

import pytest
import torch
from layer_cases import assert_close
from torch import nn
from torch.autograd import forward_ad

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
    to_dense_module,
)
from trcompress.layers.evaluation import STRATEGIES

LAYERS = {
    "TRLSTM": lambda **options: TRLSTM(12, 4, bidirectional=True, shape="3x4:2x2", ranks="2,3", **options),
    "TRGRU": lambda **options: TRGRU(12, 4, 2, shape="3x4:2x2", ranks=2, **options),
    "TRRNN": lambda **options: TRRNN(12, 4, gates="per-gate", shape="3x4:2x2", ranks=2, **options),
    "TTLSTM": lambda **options: TTLSTM(12, 4, shape="3x4:2x2", rank=2, **options),
    "BTLSTM": lambda **options: BTLSTM(12, 4, shape="3x4:2x2", rank=2, **options),
    "TRLSTMCell": lambda **options: TRLSTMCell(12, 4, shape="3x4:2x2", ranks=2, **options),
    "TRGRUCell": lambda **options: TRGRUCell(12, 4, shape="3x4:2x2", ranks=2, **options),
    "TRRNNCell": lambda **options: TRRNNCell(12, 4, shape="3x4:2x2", ranks=2, **options),
    "TRLinear": lambda **options: TRLinear(12, 4, shape="3x4:2x2", ranks=2, **options),
}


def case(kind, dtype=torch.float64):
    torch.manual_seed(0)
    steps = () if kind.endswith("Cell") else (3,)
    return LAYERS[kind](dtype=dtype), torch.randn(*steps, 2, 12, dtype=dtype, requires_grad=True)


def output_of(layer, x):
    found = layer(x)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("kind", ["TRLSTM", "TRGRU", "TRRNN", "TTLSTM"])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_training_in_float32(kind, backend):
    layer, x = case(kind, torch.float32)
    torch._dynamo.reset()
    compiled, found = torch.compile(layer, backend=backend), []
    for module in (layer, compiled):
        layer.zero_grad()
        x.grad = None
        output_of(module, x).square().sum().backward()
        found.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    assert_close(found[1], found[0], 1e-5)
    steps = torch.optim.SGD(layer.parameters(), lr=0.1)
    steps.step()
    assert_close(output_of(compiled, x), output_of(layer, x), 1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_second_derivatives_with_frozen_cores(kind, strategy):
    layer, x = case(kind)
    layer.strategy = strategy
    cores = [parameter for name, parameter in layer.named_parameters() if ".core." in name]
    for core in cores[::2]:
        core.requires_grad_(False)
    free = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    assert torch.autograd.gradgradcheck(lambda x, *_: output_of(layer, x), (x, *free), fast_mode=True)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_of_backward_passes(kind, dtype):
    layer, x = case(kind, dtype)
    output, leaves = output_of(layer, x), [x, *layer.parameters()]
    probes = torch.randn(3, *output.shape, dtype=dtype)
    together = torch.autograd.grad(output, leaves, probes, is_grads_batched=True, retain_graph=True)
    for at, probe in enumerate(probes):
        alone = torch.autograd.grad(output, leaves, probe, retain_graph=True)
        assert_close([one[at] for one in together], alone, 1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("no_grad", [False, True])
def test_forward_derivatives(kind, no_grad):
    """<p, J t> is <J' p, t>, for tangents of the input and of every parameter."""
    layer, x = case(kind)
    names, values = zip(*layer.named_parameters(), strict=True)
    leaves = [x, *values]
    tangents = [torch.randn_like(leaf) for leaf in leaves]
    output = output_of(layer.eval(), x)
    probe = torch.randn_like(output)
    want = sum((g * t).sum() for g, t in zip(torch.autograd.grad(output, leaves, probe), tangents, strict=True))
    with torch.no_grad():
        layer(x)  # whatever is kept must not stand in for values with tangents
    with forward_ad.dual_level(), torch.set_grad_enabled(not no_grad):
        dual = [forward_ad.make_dual(leaf.detach(), t) for leaf, t in zip(leaves, tangents, strict=True)]
        found = torch.func.functional_call(layer, dict(zip(names, dual[1:], strict=True)), (dual[0],))
        found = found[0] if isinstance(found, tuple) else found
        tangent = forward_ad.unpack_dual(found).tangent
    torch.testing.assert_close((tangent * probe).sum(), want.detach(), rtol=0, atol=1e-9)


def test_what_torch_lacks_is_lacking_here_too():
    """oneDNN's LSTM in float32 has no forward derivative; the dense layer says so, and so does the ring."""
    layer, x = case("TRLSTM", torch.float32)
    for module in (layer, to_dense_module(layer), nn.LSTM(12, 4)):
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward AD"):
            module(forward_ad.make_dual(x.detach(), torch.randn_like(x)))
