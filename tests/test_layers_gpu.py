"""Ring layers on CUDA: the same as torch.nn, no host synchronisation."""

from __future__ import annotations

import pytest
import torch
from layer_cases import assert_close
from torch.nn.utils.rnn import pack_padded_sequence

from trcompress.layers import TRGRU, TRLSTM, TRRNN, TTLSTM, TRLinear, TRLSTMCell, to_dense_module
from trcompress.layers.evaluation import STRATEGIES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
KINDS = [TRLSTM, TRGRU, TRRNN]


@pytest.fixture(autouse=True)
def exact_products():
    """TF32 would hide faults behind its rounding."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def small(kind=TRLSTM, **options):
    torch.manual_seed(0)
    return kind(12, 8, **{"shape": "3x4:2x4", "ranks": "2,3", "device": "cuda"} | options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_torch(kind, strategy, training, bidirectional):
    layer = small(kind, num_layers=2, bidirectional=bidirectional).train(training)
    layer.strategy = strategy
    dense = to_dense_module(layer)
    x = torch.randn(5, 3, 12, device="cuda", requires_grad=True)
    for _ in range(2):
        assert_close(layer(x), dense(x), 1e-5)
    if training:
        mine, theirs = (torch.autograd.grad(module(x)[0].square().sum(), x)[0] for module in (layer, dense))
        assert_close(mine, theirs, 1e-4)
        layer(x)[0].sum().backward()
        assert all(parameter.grad.is_cuda for parameter in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_no_host_synchronisation(kind, training):
    layer, x = small(kind).train(training), torch.randn(5, 3, 12, device="cuda")

    def step():
        if not training:
            with torch.no_grad():
                return layer(x)
        layer.zero_grad()
        layer(x)[0].sum().backward()
        with torch.no_grad():
            return [parameter.mul_(1.0) for parameter in layer.parameters()]

    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_eval_follows_the_cores(kind):
    layer, x = small(kind).eval(), torch.randn(5, 3, 12, device="cuda")
    with torch.no_grad():
        before = layer(x)
        layer.weight_ih_l0.core[0].mul_(2)
        assert not torch.allclose(layer(x)[0], before[0])
        assert_close(layer(x), to_dense_module(layer)(x), 1e-5)


def test_packed_half_autocast_cells_linear_and_moves():
    layer = small(batch_first=True)
    packed = pack_padded_sequence(torch.randn(3, 5, 12, device="cuda"), torch.tensor([2, 5, 3]), True, False)
    assert_close(layer(packed), to_dense_module(layer)(packed), 1e-5)
    half, x = small(dtype=torch.float16), torch.randn(5, 3, 12, device="cuda")
    assert_close(half(x.half())[0].float(), to_dense_module(half)(x.half())[0].float(), 2e-2)
    with torch.autocast("cuda", torch.float16):
        assert small()(x)[0].dtype == torch.float16
    cell = small(TRLSTMCell)
    assert_close(cell(x[0]), to_dense_module(cell)(x[0]), 1e-5)
    linear = small(TRLinear)
    assert_close(linear(x), torch.nn.functional.linear(x, linear.weight.to_dense(), linear.bias), 1e-5)
    train = TTLSTM(12, 8, shape="3x4:2x4", rank=2, device="cuda")
    assert_close(train(x), to_dense_module(train)(x), 1e-5)
    there = small().eval()
    with torch.no_grad():
        want = there(x)
        assert_close(there.cpu()(x.cpu())[0], want[0].cpu(), 1e-5)
        assert_close(there.cuda()(x), want, 1e-5)
