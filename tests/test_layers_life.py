"""Ring layers in a program's life: changed, moved, copied, saved, compiled, exported, cast, tied, distributed."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from layer_cases import assert_close, tensors
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_sequence

from trcompress.errors import ShapeError, UsageError
from trcompress.layers import BTLSTM, TRGRU, TRLSTM, TRRNN, TTLSTM, TRLinear, TRLSTMCell, to_dense_module
from trcompress.layers.evaluation import STRATEGIES


def small(kind=TRLSTM, **options):
    torch.manual_seed(0)
    return kind(12, 8, **{"shape": "3x4:2x4", "ranks": "2,3"} | options)


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


def test_weight_norm_on_the_recurrent_weight():
    layer, x = small(dtype=torch.float64), torch.randn(5, 3, 12, dtype=torch.float64)
    want = layer(x)
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    assert_close(layer(x), want, 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [TRLSTM, TRGRU, TRRNN, TTLSTM])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_narrow_types(dtype, kind, strategy):
    options = {"shape": "3x4:2x4", "rank": 2, "ranks": None} if kind is TTLSTM else {}
    options = {name: value for name, value in ({"ranks": "2,3"} | options).items() if value is not None}
    torch.manual_seed(0)
    layer = kind(12, 8, **{"shape": "3x4:2x4"} | options)
    exact = to_dense_module(layer)
    layer.to(dtype).strategy = strategy
    x = torch.randn(5, 3, 12)
    got, want = layer(x.to(dtype)), exact(x)
    for mine, other in zip(tensors(got), tensors(want), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.float(), other, rtol=0, atol=0.05)
    got[0].float().sum().backward()
    want[0].sum().backward()
    assert all(core.grad.dtype == dtype for core in layer.weight_ih_l0.core)
    torch.testing.assert_close(layer.weight_hh_l0.grad.float(), exact.weight_hh_l0.grad, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", [TRLSTM, TRGRU])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("training", [False, True])
def test_autocast(kind, strategy, training):
    layer, x = small(kind).train(training), torch.randn(5, 3, 12)
    layer.strategy = strategy
    dense = to_dense_module(layer)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
        try:
            want = dense(x)
        except RuntimeError:  # PyTorch's LSTM fails here on processors without bfloat16; ours does not
            with torch.autocast("cpu", enabled=False):
                want = [tensor.bfloat16() for tensor in tensors(dense(x))]
    for mine, other in zip(tensors(got), tensors(want), strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine.float(), other.float(), rtol=0, atol=0.03)
    got[0].float().sum().backward()
    assert all(core.grad is not None and core.grad.dtype == torch.float32 for core in layer.weight_ih_l0.core)
    assert_close(layer(x), dense(x), 1e-5)


@pytest.mark.parametrize("kind", [TRLSTM, TRGRU, TRRNN])
@pytest.mark.parametrize("strategy", ["auto", "dense"])
def test_export(kind, strategy):
    layer, x = small(kind, batch_first=True, bidirectional=True, num_layers=2).eval(), torch.randn(3, 5, 12)
    layer.strategy = strategy
    want = layer(x)
    program = torch.export.export(layer, (x,))
    assert_close(program.module()(x), want, 1e-5)
    assert {"weight_ih_l0.core.0", "weight_hh_l0"} <= set(program.state_dict)


def test_export_with_a_free_batch():
    layer = small(batch_first=True).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(layer, (torch.randn(3, 5, 12),), dynamic_shapes=({0: batch},))
    x = torch.randn(7, 5, 12)
    assert_close(program.module()(x), layer(x), 1e-5)


@pytest.mark.parametrize("kind", [TRLSTM, TRGRU, TRRNN])
@pytest.mark.parametrize("warm", [False, True])
def test_compile(kind, warm):
    layer, x = small(kind, dtype=torch.float64), torch.randn(5, 3, 12, dtype=torch.float64)
    if warm:
        layer(x)[0].sum().backward()
        layer.zero_grad()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), layer(x), 1e-10)
    compiled(x)[0].sum().backward()
    got = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    layer(x)[0].sum().backward()
    assert_close(got, [parameter.grad for parameter in layer.parameters()], 1e-10)
    with torch.no_grad():
        layer.weight_ih_l0.core[0].mul_(2)
        assert_close(compiled(x), to_dense_module(layer)(x), 1e-10)


@pytest.mark.slow
def test_compile_with_inductor():
    layer, x = small().eval(), torch.randn(5, 3, 12)
    with torch.no_grad():
        assert_close(torch.compile(layer)(x), layer(x), 1e-5)


def test_trace():
    layer, x = small().eval(), torch.randn(5, 3, 12)
    layer(x)
    traced = torch.jit.trace(layer, (x,), check_trace=False)
    with torch.no_grad():
        layer.weight_ih_l0.core[0].mul_(2)
    assert_close(traced(x), layer(x), 1e-5)


@pytest.mark.parametrize("kind", [TRLSTM, TRGRU, TRRNN])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("training", [False, True])
def test_empty_inputs_are_torchs(kind, strategy, training):
    ring = small(kind).train(training)
    ring.strategy = strategy
    dense = to_dense_module(ring)
    for _ in range(2):
        for mine, other in zip(
            tensors(ring(torch.zeros(5, 0, 12))), tensors(dense(torch.zeros(5, 0, 12))), strict=True
        ):
            assert mine.shape == other.shape
    for steps in (torch.zeros(0, 3, 12), torch.zeros(0, 12)):
        with pytest.raises(RuntimeError):
            dense(steps)
        with pytest.raises(RuntimeError, match="larger than 0"):
            ring(steps)


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


DDP = """
import os, torch, torch.distributed as dist
from trcompress.layers import TRLSTM
rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
torch.manual_seed(rank)
layer = TRLSTM(12, 8, shape="3x4:2x4", ranks=2)
model = torch.nn.parallel.DistributedDataParallel(layer)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(5, 3, 12))[0].sum().backward()
    optimizer.step()
flat = torch.cat([parameter.detach().flatten() for parameter in layer.parameters()])
both = [torch.empty_like(flat) for _ in range(2)]
dist.all_gather(both, flat)
assert torch.equal(*both), "the replicas differ"
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group; torn down with the interpreter they can abort the process
"""


def test_distributed_replicas_stay_equal(tmp_path):
    script = tmp_path / "replica.py"
    script.write_text(DDP)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("kind", [TRLSTM, TRGRU, TRRNN])
def test_script_names_what_can_be_scripted(kind):
    with pytest.raises(UsageError, match=r"script trcompress\.to_plain\(model\)"):
        torch.jit.script(nn.Sequential(small(kind)))


def test_cores_that_are_computed_can_not_be_set():
    weight = small().weight_ih_l0
    prune.l1_unstructured(weight.core, "1", amount=2)
    with pytest.raises(UsageError, match=r"\[1\] are pruned or parametrized"):
        weight.set_cores([core.detach() for core in weight.core])
