"""Ring layers under PyTorch's tools: autocast, export, compile, trace, several processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from layer_cases import assert_close, small, tensors
from torch import nn
from torch.nn.utils import prune

from trcompress.errors import UsageError
from trcompress.layers import TRGRU, TRLSTM, TRRNN, TTLSTM, to_dense_module
from trcompress.layers.evaluation import STRATEGIES


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
def test_script_names_what_can_be_scripted(kind):
    with pytest.raises(UsageError, match=r"script trcompress\.to_plain\(model\)"):
        torch.jit.script(nn.Sequential(small(kind)))


def test_cores_that_are_computed_can_not_be_set():
    weight = small().weight_ih_l0
    prune.l1_unstructured(weight.core, "1", amount=2)
    with pytest.raises(UsageError, match=r"\[1\] are pruned or parametrized"):
        weight.set_cores([core.detach() for core in weight.core])
