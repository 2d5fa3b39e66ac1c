"""Ring layers in a program's life: changed, moved, copied, saved, compiled, exported, cast, tied, distributed."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from layer_cases import assert_close, small
from torch import nn

from trcompress.errors import UsageError
from trcompress.layers import BTLSTM, TRGRU, TRLSTM, TRRNN, TTLSTM, to_dense_module
from trcompress.layers.evaluation import STRATEGIES


def test_functional_call_sees_the_given_values():
    layer, x = small(dtype=torch.float64).eval(), torch.randn(5, 3, 12, dtype=torch.float64)
    layer(x)
    values = {name: value.detach() * 1.5 for name, value in layer.named_parameters()}
    got = torch.func.functional_call(layer, values, (x,))
    layer.load_state_dict(values)
    assert_close(got, to_dense_module(layer)(x), 1e-10)


def test_function_transforms():
    layer, x = small(TRGRU, dtype=torch.float64), torch.randn(5, 3, 12, dtype=torch.float64)
    layer(x)

    def loss(values):
        return torch.func.functional_call(layer, values, (x,))[0].sum()

    values = {name: value.detach() for name, value in layer.named_parameters()}
    found = torch.func.grad(loss)(values)
    layer(x)[0].sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_graphs_that_wait_are_not_overwritten(strategy):
    """Two forward passes with different values, then backward through the first."""
    layer, x = small(dtype=torch.float64), torch.randn(5, 3, 12, dtype=torch.float64)
    layer.strategy = strategy
    first, want = layer(x)[0].sum(), torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))
    for core in layer.weight_ih_l0.core:
        core.data = core.data.clone()
        core.data.mul_(1.5)
    layer(x)[0].sum().backward()
    for core in layer.weight_ih_l0.core:
        core.data.div_(1.5)
    assert_close(torch.autograd.grad(first, list(layer.parameters())), want, 1e-10)


def test_backward_after_an_update_is_an_error():
    layer, x = small(), torch.randn(5, 3, 12)
    loss = layer(x)[0].sum()
    with torch.no_grad():
        layer.weight_ih_l0.core[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_backward_twice_and_accumulation(strategy):
    layer, x = small(dtype=torch.float64), torch.randn(5, 3, 12, dtype=torch.float64)
    layer.strategy = strategy
    layer(x)[0].sum().backward()
    once = [parameter.grad.clone() for parameter in layer.parameters()]
    loss = layer(x)[0].sum()
    loss.backward(retain_graph=True)
    loss.backward()
    layer(x)[0].sum().backward()
    assert_close([parameter.grad for parameter in layer.parameters()], [4 * grad for grad in once], 1e-10)


def test_frozen_cores_get_no_gradient():
    layer, x = small(dtype=torch.float64), torch.randn(5, 3, 12, dtype=torch.float64, requires_grad=True)
    layer(x)[0].sum().backward()
    layer.zero_grad()
    frozen = [layer.weight_ih_l0.core[0], layer.weight_ih_l0.core[3]]
    for core in frozen:
        core.requires_grad_(False)
    layer(x)[0].sum().backward()
    assert [core.grad is None for core in layer.weight_ih_l0.core] == [True, False, False, True]
    layer.weight_ih_l0.requires_grad_(False)
    layer.zero_grad()
    x.grad = None
    layer(x)[0].sum().backward()
    assert all(core.grad is None for core in layer.weight_ih_l0.core)
    dense = to_dense_module(layer)
    assert_close(x.grad, torch.autograd.grad(dense(x)[0].sum(), x), 1e-10)


@pytest.mark.parametrize("copier", ["deepcopy", "pickle", "torch.save", "state_dict"])
def test_copies_are_whole_and_hold_nothing_computed(copier):
    layer, x = small(dtype=torch.float64).eval(), torch.randn(5, 3, 12, dtype=torch.float64)
    layer.strategy = "dense"
    with torch.no_grad():
        want = layer(x)
    buffer = io.BytesIO()
    if copier == "deepcopy":
        twin = copy.deepcopy(layer)
    elif copier == "pickle":
        twin = pickle.loads(pickle.dumps(layer))
    elif copier == "torch.save":
        torch.save(layer, buffer)
        twin = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    else:
        torch.save(layer.state_dict(), buffer)
        twin = small(dtype=torch.float64).eval()
        twin.reset_parameters()
        twin.load_state_dict(torch.load(io.BytesIO(buffer.getvalue())))
    assert buffer.getbuffer().nbytes < 30_000
    with torch.no_grad():
        assert_close(twin(x), want, 1e-12)
        twin.weight_ih_l0.core[0].mul_(2)
        assert not torch.allclose(twin(x)[0], want[0])
        assert_close(layer(x), want, 1e-12)
    assert list(layer.state_dict()) == [name for name, _ in layer.named_parameters()]


def test_ring_strategy_keeps_only_the_cores():
    layer, x = small().eval(), torch.randn(5, 3, 12)
    for strategy, kept in (("ring", 0), ("merged", 1), ("dense", 1)):
        layer.strategy = strategy
        assert layer.weight_ih_l0.kept_bytes == 0
        with torch.no_grad():
            layer(x)
        assert (layer.weight_ih_l0.kept_bytes > 0) == kept
    layer.train()
    assert layer.weight_ih_l0.kept_bytes == 0


def test_strategy_shows_and_overrides():
    layer, x = small(), torch.randn(5, 3, 12)
    assert layer.strategy == "auto"
    assert layer.strategy.chosen == {}
    for name in ("merged", "dense"):
        layer.strategy = name
        layer(x)
        assert layer.strategy == name
        assert layer.strategy.chosen == {"weight_ih_l0": name}
    layer.strategy = layer.strategy
    with pytest.raises(UsageError, match=r"strategy must be one of auto, ring, merged, dense: got 'rign'.*'ring'"):
        layer.strategy = "rign"


def test_inference_mode_then_training():
    layer, x = small().eval(), torch.randn(5, 3, 12)
    with torch.inference_mode():
        layer(x)
    x.requires_grad_()
    layer(x)[0].sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        again = small().eval()
        again(x)
    with torch.no_grad():
        assert_close(again(x), to_dense_module(again)(x), 1e-5)


@pytest.mark.parametrize("kind", [TRLSTM, TRGRU, TRRNN])
def test_meta_device(kind):
    layer = kind(57600, 256, shape="4x2x5x8x6x5x3x2:4x4x2x4x2", ranks="5,10", device="meta")
    assert all(parameter.is_meta for parameter in layer.parameters())
    output = layer(torch.empty(6, 2, 57600, device="meta"))[0]
    assert output.shape == (6, 2, 256)
    real = small(kind, device="meta").to_empty(device="cpu")
    real.reset_parameters()
    assert torch.isfinite(real(torch.randn(5, 3, 12))[0]).all()


@pytest.mark.parametrize("kind", [TRLSTM, TRGRU, TRRNN, TTLSTM, BTLSTM])
def test_reset_hits_the_variance(kind):
    options = (
        {"shape": "6x4x5:4x4x4", "rank": 3} if kind in (TTLSTM, BTLSTM) else {"shape": "6x4x5:8x8", "ranks": "3,4"}
    )
    for seed in range(3):
        torch.manual_seed(seed)
        layer = kind(120, 64, **options)
        for parameter in layer.parameters(recurse=False):
            assert parameter.abs().max() <= 1 / 8
        assert mean_square(layer) == pytest.approx(1 / (3 * 64), rel=1e-4)
        layer.weight_ih_l0.reset_parameters(0.5)
        assert mean_square(layer) == pytest.approx(0.5, rel=1e-4)
        first, second, *_ = (float(core.detach().std()) for core in layer.weight_ih_l0.core)
        assert first == pytest.approx(second, rel=0.6)


def mean_square(layer):
    return float(layer.weight_ih_l0.to_dense().detach().double().square().mean())


def test_trains_from_scratch():
    """Tell rising from falling sequences hidden in 48 inputs."""
    torch.manual_seed(0)
    layer, head = TRGRU(48, 16, batch_first=True, shape="6x8:4x4", ranks=3), nn.Linear(16, 2)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=1e-2)
    labels = torch.randint(0, 2, (128,))
    slope = (2 * labels - 1)[:, None, None] * torch.linspace(-1, 1, 8)[None, :, None]
    x = slope * torch.randn(48) + 0.5 * torch.randn(128, 8, 48)
    for _ in range(60):
        loss = nn.functional.cross_entropy(head(layer(x)[1][0]), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
    assert loss < 0.1


def test_clipping_sees_the_cores():
    layer = small()
    layer(torch.randn(5, 3, 12))[0].sum().backward()
    norm = nn.utils.clip_grad_norm_(layer.parameters(), 1e-3)
    assert norm > 1e-3
    total = sum(parameter.grad.square().sum() for parameter in layer.parameters()).sqrt()
    assert total == pytest.approx(1e-3, rel=1e-2)
    assert all(core.grad is not None for core in layer.weight_ih_l0.core)


def test_tied_cores():
    first, second = small(dtype=torch.float64), small(dtype=torch.float64)
    second.weight_ih_l0.core = first.weight_ih_l0.core
    model, x = nn.ModuleList([first, second]), torch.randn(5, 3, 12, dtype=torch.float64)
    assert len(list(model.parameters())) == 10
    (first(x)[0].sum() + second(x)[0].sum()).backward()
    both = [core.grad.clone() for core in first.weight_ih_l0.core]
    model.zero_grad()
    first(x)[0].sum().backward()
    one = [core.grad.clone() for core in first.weight_ih_l0.core]
    model.zero_grad()
    second(x)[0].sum().backward()
    other = [core.grad for core in first.weight_ih_l0.core]
    assert_close(both, [a + b for a, b in zip(one, other, strict=True)], 1e-10)


def test_tied_directions():
    layer, x = small(bidirectional=True, dtype=torch.float64), torch.randn(5, 3, 12, dtype=torch.float64)
    layer.weight_ih_l0_reverse = layer.weight_ih_l0
    assert_close(layer(x), to_dense_module(layer)(x), 1e-10)


@pytest.mark.parametrize("kind", [TRLSTM, TRGRU, TRRNN])
def test_weights_read_as_torchs(kind):
    layer = small(kind, num_layers=2, bidirectional=True)
    dense = to_dense_module(layer)
    for mine, theirs in zip(layer.all_weights, dense.all_weights, strict=True):
        assert_close(mine, [one.detach() for one in theirs], 1e-6)
    assert [one.shape for one in layer._flat_weights] == [one.shape for one in dense._flat_weights]
    for name in ("shape", "dtype", "device"):
        assert getattr(layer.weight_ih_l0, name) == getattr(dense.weight_ih_l0, name)
    layer.all_weights[0][0].sum().backward()
    assert layer.weight_ih_l0.core[0].grad is not None
