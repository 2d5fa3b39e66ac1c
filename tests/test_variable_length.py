"""LSTMs over packed sequences through the padded kernel: equal to torch.nn's, in values, states and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import assert_close
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from trcompress import Plan, compress_
from trcompress.layers import TRGRU, TRLSTM, to_dense_module
from trcompress.layers import variable_length as vl
from trcompress.layers.kernels import KernelSettings
from trcompress.layers.padded_lstm import PaddedForward, use_padded_kernel
from trcompress.network.classifier import dense_classifier


def packed_batch(lengths, inputs, dtype=torch.float64):
    x = torch.randn(max(lengths), len(lengths), inputs, dtype=dtype, requires_grad=True)
    return x, pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)


def states_of(lstm, batch):
    rows = lstm.num_layers * (2 if lstm.bidirectional else 1)
    return tuple(
        torch.randn(rows, batch, lstm.hidden_size, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )


def padded(lstm, packed, hx, places):
    """What `run_groups` gives for groups that begin at `places`, as torch.nn's LSTM gives it."""
    data, batch_sizes, order, back = packed
    groups = vl.make_groups(batch_sizes, vl.lengths_of(batch_sizes), places)
    hx = lstm.permute_hidden(hx, order) if hx else None
    about = KernelSettings(lstm.bias, lstm.num_layers, lstm.dropout, lstm.training, lstm.bidirectional)
    output, *states = vl.run_groups(data, groups, hx, lstm._flat_weights, about)
    return output, *lstm.permute_hidden(tuple(states), back)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_equals_torch(data, lengths):
    torch.manual_seed(data.draw(st.integers(0, 100), label="seed"))
    options = {name: data.draw(st.booleans(), label=name) for name in ("bias", "bidirectional")}
    layers, dropout = data.draw(st.integers(1, 3), label="layers"), data.draw(st.sampled_from([0.0, 0.5]))
    lstm = nn.LSTM(5, 4, layers, dropout=dropout if layers > 1 else 0.0, dtype=torch.float64, **options)
    lstm.train(data.draw(st.booleans(), label="training"))
    x, packed = packed_batch(lengths, 5)
    hx = states_of(lstm, len(lengths)) if data.draw(st.booleans(), label="given states") else None
    cuts = data.draw(st.sets(st.integers(1, len(lengths)), max_size=3), label="cuts")
    places = sorted({0, len(lengths)} | cuts)
    torch.manual_seed(7)
    theirs = lstm(packed, hx)
    theirs = (theirs[0].data, *theirs[1])
    torch.manual_seed(7)
    ours = padded(lstm, packed, hx, places)
    assert_close(ours, theirs, 1e-12)
    probes, leaves = [torch.randn_like(one) for one in theirs], [x, *lstm.parameters(), *(hx or ())]
    grads = [
        torch.autograd.grad(
            sum((one * p).sum() for one, p in zip(found, probes, strict=True)), leaves, retain_graph=True
        )
        for found in (ours, theirs)
    ]
    assert_close(*grads, 1e-12)


def test_second_derivatives():
    lstm, (_, packed) = nn.LSTM(3, 2, bidirectional=True, dtype=torch.float64), packed_batch([3, 1, 2], 3)

    def call(data, *weights):
        groups = vl.make_groups(packed.batch_sizes, vl.lengths_of(packed.batch_sizes), [0, 2, 3])
        return vl.run_groups(data, groups, None, weights, KernelSettings(True, 1, 0.0, True, True))

    leaves = (packed.data.detach().requires_grad_(), *lstm.parameters())
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("given_states", [True, False])
@pytest.mark.parametrize("strategy", ["auto", "dense", "ring"])
def test_ring_layers_take_this_way(training, given_states, strategy, monkeypatch):
    """In float32, where oneDNN serves; the reference runs in float64 through PyTorch's packed kernel."""
    torch.manual_seed(0)
    layer = TRLSTM(24, 16, 2, bidirectional=True, shape="4x6:4x4", ranks=2).train(training)
    layer.strategy = strategy
    used = []
    monkeypatch.setattr(vl, "WORTH", 0)  # these sizes are too small to be worth it
    monkeypatch.setattr("trcompress.layers.stack.run_groups", lambda *args: used.append(1) or vl.run_groups(*args))
    _, packed = packed_batch([9, 30, 17, 30, 3], 24, torch.float32)
    hx = tuple(torch.randn(4, 5, 16) for _ in range(2)) if given_states else None
    exact = to_dense_module(layer).double()
    with torch.set_grad_enabled(training):
        ours = layer(packed, hx)
        theirs = exact(packed._replace(data=packed.data.double()), hx and tuple(one.double() for one in hx))
    assert used
    for mine, other in zip((ours[0].data, *ours[1]), (theirs[0].data, *theirs[1]), strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=0, atol=1e-5)


def test_other_kinds_types_and_tracing_stay_with_torch():
    sizes = pack_padded_sequence(torch.randn(9, 3, 5), torch.tensor([9, 5, 2])).batch_sizes
    x = torch.randn(16, 5)
    assert vl.groups_for("LSTM", x, sizes, 8, 0, True)
    assert vl.groups_for("GRU", x, sizes, 8, 0, True) is None
    assert vl.groups_for("LSTM", x, sizes, 8, 3, True) is None
    assert vl.groups_for("LSTM", x.double(), sizes, 8, 0, True) is None
    assert vl.groups_for("LSTM", x.to("meta"), sizes, 8, 0, True) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert vl.groups_for("LSTM", x, sizes, 8, 0, True) is None
    assert vl.groups_for("LSTM", torch.randn(900, 5), torch.ones(900, dtype=torch.int64), 8, 0, True) is None
    _, packed = packed_batch([4, 2], 12, torch.float32)
    assert torch.isfinite(TRGRU(12, 8, shape="3x4:2x4", ranks=2)(packed)[0].data).all()


@pytest.mark.parametrize(
    ("batch", "steps", "inputs", "hidden", "padded"),
    [(16, 500, 6, 64, (True, True)), (16, 50, 1024, 256, (False, False)), (32, 100, 256, 192, (False, True))],
)
def test_only_what_is_expected_to_pay_is_padded(batch, steps, inputs, hidden, padded, monkeypatch):
    """Measured: 1.8x and 28x; 0.55x and 0.98x; 0.94x and 2.7x, in evaluation and in training."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    lengths = torch.linspace(steps, steps // 4, batch).long()
    sizes = (lengths[:, None] > torch.arange(steps)).sum(0)
    x = torch.empty(int(lengths.sum()), inputs)
    assert tuple(vl.groups_for("LSTM", x, sizes, hidden, 0, use) is not None for use in (False, True)) == padded


def test_batches_of_very_different_lengths_are_split():
    lengths = [1000] + [10] * 63
    sizes = (torch.tensor(lengths)[:, None] > torch.arange(1000)).sum(0)
    groups = vl.groups_for("LSTM", torch.zeros(sum(lengths), 64), sizes, 64, 0, True)
    assert groups is not None
    assert sum(one.steps * (one.stop - one.start) for one in groups) < 10 * sum(lengths)


class Counter(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("readout", ["final", "mean"])
def test_a_training_step_on_long_series_costs_no_operation_per_step(readout):
    """An epoch over 140 series of 947 to 2,618 steps takes 2 s of one core; a few calls per step took minutes."""
    network, counts = dense_classifier(6, 4, hidden_size=16, readout=readout).module, []
    for steps in (100, 400):
        lengths = torch.tensor([steps, steps // 2, steps // 3])
        with Counter() as counter:
            network(torch.randn(3, steps, 6), lengths).sum().backward()
        counts.append(counter.calls)
    assert counts[1] < counts[0] + 20 < 320


def test_no_batch_is_padded_beyond_reason():
    lengths = [4000] + [1] * 255
    sizes = (torch.tensor(lengths)[:, None] > torch.arange(4000)).sum(0)
    groups = vl.groups_for("LSTM", torch.zeros(sum(lengths), 1024), sizes, 1024, 0, False)
    assert groups is None or sum(one.steps * (one.stop - one.start) for one in groups) < 30 * sum(lengths)


@pytest.mark.parametrize("given_states", [True, False])
def test_a_plain_lstm_takes_this_way_and_stays_itself(given_states):
    torch.manual_seed(0)
    plain = nn.LSTM(6, 8, 2, bidirectional=True, batch_first=True)
    fast, seen = use_padded_kernel(copy.deepcopy(plain)), []
    assert type(fast) is nn.LSTM
    fast.register_forward_hook(lambda *args: seen.append(1))
    _, packed = packed_batch([9, 30, 17], 6, torch.float32)
    hx = tuple(torch.randn(4, 3, 8) for _ in range(2)) if given_states else None
    for module in (fast, copy.deepcopy(fast)):
        ours, theirs = module(packed, hx), plain(packed, hx)
        assert_close([ours[0].data, *ours[1]], [theirs[0].data, *theirs[1]], 1e-5)
    x = torch.randn(2, 3, 6)
    assert_close(fast(x), plain(x), 0)
    assert seen
    twin = copy.deepcopy(fast)
    assert isinstance(twin.forward, PaddedForward)
    with torch.no_grad():
        twin.weight_hh_l0.zero_()
    assert not torch.allclose(twin(packed)[0].data, fast(packed)[0].data)
    with pytest.raises(RuntimeError, match=r"input\.size"):
        fast(packed._replace(data=packed.data[:, :5]))


def test_a_module_with_the_padded_kernel_is_swapped_and_its_ring_runs_its_own_cores():
    lstm = use_padded_kernel(nn.LSTM(12, 8))
    model = nn.Sequential(lstm)
    compress_(model, Plan.of("4x3:4x2", "2"))
    packed = pack_padded_sequence(torch.randn(9, 3, 12), torch.tensor([9, 4, 2]))
    wanted = to_dense_module(model[0])(packed)[0].data
    assert torch.allclose(model[0](packed)[0].data, wanted, atol=1e-6)
    assert not torch.allclose(lstm(packed)[0].data, wanted, atol=1e-2)
