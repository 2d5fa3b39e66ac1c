"""Whatever changes the cores of a layer, its next output is that of the dense layer of the cores as they are."""

from __future__ import annotations

import copy
import itertools
import multiprocessing

import pytest
import torch
import torch.distributed as dist
from layer_cases import assert_close
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.utils import parametrize, prune

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
    to_dense_module,
)
from trcompress.layers.evaluation import DENSE, STRATEGIES, kept

DOUBLE = {"dtype": torch.float64}
RING, PAIRED = {"shape": "3x4:2x4", "ranks": "2,3"} | DOUBLE, {"shape": "3x4:2x4", "rank": 2} | DOUBLE
LAYERS = {
    "TRLSTM": lambda: TRLSTM(12, 8, bidirectional=True, **RING),
    "two layers": lambda: TRGRU(12, 8, 2, shape="3x4:2x4", ranks=2, **DOUBLE),
    "TRGRU per gate": lambda: TRGRU(12, 8, gates="per-gate", **RING),
    "TRRNN": lambda: TRRNN(12, 8, **RING),
    "TTLSTM": lambda: TTLSTM(12, 8, **PAIRED),
    "BTLSTM": lambda: BTLSTM(12, 8, **PAIRED),
    "TRLSTMCell": lambda: TRLSTMCell(12, 8, **RING),
    "TRGRUCell": lambda: TRGRUCell(12, 8, **RING),
    "TRRNNCell": lambda: TRRNNCell(12, 8, **RING),
    "TRLinear": lambda: TRLinear(12, 8, **RING),
    "TTLinear": lambda: TTLinear(12, 8, shape="3x4:2x4", ranks=2, **DOUBLE),
}
MODES = ("train", "eval", "eval with gradients")
CHANGES = {}


def change(name):
    """Register a way of changing the cores: a generator whose every `next` is one change."""

    def register(function):
        CHANGES[name] = function
        return function

    return register


def holder(layer):
    """The layer's first weight that is kept as cores."""
    return next(child for child in layer.children() if hasattr(child, "set_cores"))


def inputs_of(layer):
    torch.manual_seed(1)
    one_step = hasattr(layer, "weight_ih") or isinstance(layer, TRLinear)
    return torch.randn(*(3, 12) if one_step else (5, 3, 12), **DOUBLE)


def expected(layer, x):
    """The same in torch.nn, from the dense weights of the cores as they are now."""
    if isinstance(layer, TRLinear):
        return [nn.functional.linear(x, layer.weight.to_dense(), layer.bias)]
    return to_dense_module(layer)(x)


def check(layer, x, mode):
    """Compare in the mode; return the output."""
    layer.train(mode == "train")
    with torch.set_grad_enabled(mode != "eval"):
        got, want = layer(x), expected(layer, x)
    assert_close([got], [want], 1e-10)
    return torch.cat([one.detach().flatten() for one in _flat(got)])


def _flat(value):
    return [value] if isinstance(value, torch.Tensor) else [one for part in value for one in _flat(part)]


def gradients(layer):
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)


OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "Adagrad": torch.optim.Adagrad,
}
STEPS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
for (label, kind), (way, options) in itertools.product(OPTIMIZERS.items(), STEPS.items()):

    @change(f"{way} {label}")
    def optimizer_steps(layer, kind=kind, options=options):
        optimizer = kind(layer.parameters(), lr=0.1, **options)
        while True:
            gradients(layer)
            optimizer.step()
            yield


@change("in place")
def in_place(layer):
    while True:
        with torch.no_grad():
            holder(layer).core[1].neg_()
        yield


@change("data")
def through_data(layer):
    core = holder(layer).core[1]
    while True:
        core.data.neg_()
        yield
        core.data = -core.data
        yield


@change("kept view of data")
def kept_view(layer):
    view = holder(layer).core[0].data[:1]
    while True:
        view.neg_()
        yield


@change("detach")
def detached(layer):
    while True:
        holder(layer).core[1].detach().neg_()
        yield


@change("set_")
def set_to_other_storage(layer):
    core = holder(layer).core[1]
    while True:
        with torch.no_grad():
            core.set_(torch.randn_like(core))
        yield


@change("swap_tensors")
def swapped(layer):
    while True:
        core = holder(layer).core[1]
        torch.utils.swap_tensors(core, nn.Parameter(torch.randn_like(core)))
        yield


@change("load_state_dict")
def loaded(layer):
    for assign in itertools.cycle((False, True)):
        state = {name: torch.randn_like(value) for name, value in layer.state_dict().items()}
        layer.load_state_dict(state, assign=assign)
        yield


@change("views of one flat tensor")
def flat_views(layer):
    flat = nn.utils.parameters_to_vector(layer.parameters()).detach().clone()
    nn.utils.vector_to_parameters(flat, layer.parameters())
    while True:
        flat.neg_()
        yield


@change("flat tensor, cores replaced by views")
def unflattened(layer):
    cores = holder(layer).core
    flat = torch.cat([core.detach().flatten() for core in cores])
    parts = flat.split([core.numel() for core in cores])
    for k, part in enumerate(parts):
        cores[k].data = part.view(cores[k].shape)
    while True:
        flat[: cores[0].numel()].neg_()
        yield


@change("moving average")
def moving_average(layer):
    shadow = torch.optim.swa_utils.AveragedModel(
        layer, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    while True:
        gradients(layer)
        with torch.no_grad():
            torch._foreach_add_([*layer.parameters()], [p.grad for p in layer.parameters()])
        shadow.update_parameters(layer)
        with torch.no_grad():
            for mine, averaged in zip(layer.parameters(), shadow.module.parameters(), strict=True):
                mine.copy_(averaged)
        yield


@change("NumPy view")
def numpy_view(layer):
    array = holder(layer).core[1].detach().numpy()
    while True:
        array *= -1
        yield


@change("DLPack view")
def dlpack_view(layer):
    alias = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(holder(layer).core[1].detach()))
    while True:
        alias.neg_()
        yield


@change("pruned")
def pruned(layer):
    cores = holder(layer).core
    for k in itertools.cycle(range(len(cores))):
        prune.l1_unstructured(cores, str(k), amount=0.3)
        yield
        with torch.no_grad():
            getattr(cores, f"{k}_orig").neg_()
        yield
        getattr(cores, f"{k}_mask").fill_(1.0)
        yield
        prune.remove(cores, str(k))


class Doubled(nn.Module):
    def forward(self, core):
        return 2 * core


@change("parametrized")
def parametrized(layer):
    cores = holder(layer).core
    for k in itertools.cycle(range(len(cores))):
        parametrize.register_parametrization(cores, str(k), Doubled())
        yield
        with torch.no_grad():
            cores.parametrizations[str(k)].original.neg_()
        yield
        parametrize.remove_parametrizations(cores, str(k))


@change("another ParameterList")
def replaced_list(layer):
    while True:
        weight = holder(layer)
        weight.core = nn.ParameterList([nn.Parameter(torch.randn_like(core)) for core in weight.core])
        yield
        weight.core[1] = nn.Parameter(torch.randn_like(weight.core[1]))
        yield


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_output_follows_the_cores(kind, name):
    """Every strategy and mode in turn on one layer, so that each also meets what the one before it left."""
    follow(kind, name)


@pytest.mark.parametrize("name", CHANGES)
def test_the_output_follows_cores_that_are_compared_as_bytes(name, monkeypatch):
    monkeypatch.setattr(kept, "FEW", 0)
    follow("TRLSTM", name)


def follow(kind, name):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    x, changes = inputs_of(layer), CHANGES[name](layer)
    with torch.no_grad():
        layer.eval()(x)
    for strategy, mode in itertools.product(STRATEGIES, MODES):
        layer.strategy = strategy
        before = check(layer, x, mode)
        next(changes)
        after = check(layer, x, mode)
        assert not torch.allclose(before, after, atol=1e-12), "nothing changed: the comparison means nothing"


def test_replacing_a_whole_weight_and_the_others():
    layer, x = LAYERS["TRLSTM"](), torch.randn(5, 3, 12, **DOUBLE)
    for mode in MODES:
        check(layer, x, mode)
        layer.weight_ih_l0 = copy.deepcopy(layer.weight_ih_l0)
        layer.weight_ih_l0.reset_parameters(1.0)
        layer.weight_hh_l0 = nn.Parameter(torch.randn_like(layer.weight_hh_l0))
        check(layer, x, mode)


CORE = (2, 3, 4)
OTHERS = {
    "one bit": lambda value: torch.nextafter(value, torch.full_like(value, 9.0)),
    "strides": lambda value: value.flip(0).transpose(0, 2).contiguous().transpose(0, 2),
    "shape": lambda value: value.reshape(4, 3, 2),
    "type": lambda value: value.view(torch.int32),
    "count": lambda value: value[:1],
    "sign, as a view": torch._neg_view,
    "every other": lambda value: torch.stack([value, value + 1], -1)[..., 1],
}


@pytest.mark.parametrize("few", [kept.FEW, 0])
@pytest.mark.parametrize("name", OTHERS)
def test_a_core_that_is_another_is_never_taken_for_the_kept_one(name, few, monkeypatch):
    monkeypatch.setattr(kept, "FEW", few)
    core, matrices = torch.arange(24.0).reshape(CORE), kept.KeptMatrices()
    assert torch.equal(matrices.get(DENSE, [core], lambda cores: (cores[0] * 2,))[0], core * 2)
    other = OTHERS[name](core)
    found = matrices.get(DENSE, [other], lambda cores: (cores[0] * 2,))[0]
    assert found.dtype == other.dtype
    assert torch.equal(found, other * 2)
    assert found is matrices.get(DENSE, [other], lambda _: pytest.fail("it was kept"))[0]


def test_cores_that_are_no_numbers_are_kept_like_others(monkeypatch):
    monkeypatch.setattr(kept, "FEW", 0)
    core, matrices = torch.full(CORE, float("nan")), kept.KeptMatrices()
    first = matrices.get(DENSE, [core], lambda cores: (cores[0] * 2,))
    assert matrices.get(DENSE, [core.clone()], lambda _: pytest.fail("it was kept")) is first


def test_moves_and_casts():
    layer, x = LAYERS["TRLSTM"]().eval(), torch.randn(5, 3, 12)
    with torch.no_grad():
        layer(x.double())
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
            layer.to(dtype)
            assert_close(layer(x.to(dtype)), to_dense_module(layer)(x.to(dtype)), tolerance)


def add_one(core):
    """Run in another process."""
    core += 1.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("few", [kept.FEW, 0])
def test_another_process_through_shared_memory(mode, few, monkeypatch):
    monkeypatch.setattr(kept, "FEW", few)
    layer, x = LAYERS["TRLSTM"]().share_memory(), torch.randn(5, 3, 12, **DOUBLE)
    before = check(layer, x, mode)
    worker = torch.multiprocessing.get_context("fork").Process(
        target=add_one, args=(layer.weight_ih_l0.core[0].detach(),)
    )
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert not torch.allclose(before, check(layer, x, mode))


def every_process(rank, size, folder, failures):
    """Reduce, broadcast and step in buckets, and compare after each; run in several processes."""
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
        torch.manual_seed(rank)
        layer, x = LAYERS["TRLSTM"](), torch.randn(5, 3, 12, **DOUBLE)
        steps = ZeroRedundancyOptimizer(
            layer.parameters(), torch.optim.Adam, parameters_as_bucket_view=True, lr=0.1
        )
        for mode in MODES:
            before = check(layer, x, mode)
            dist.all_reduce(layer.weight_ih_l0.core[0].detach())
            after = check(layer, x, mode)
            assert not torch.allclose(before, after), "all_reduce changed nothing"
            dist.broadcast(layer.weight_ih_l0.core[1].detach(), src=0)
            check(layer, x, mode)
            gradients(layer)
            steps.step()
            assert not torch.allclose(after, check(layer, x, mode)), "the step changed nothing"
        dist.destroy_process_group()
    except BaseException as error:  # the parent shows it
        failures.put(f"process {rank}: {error!r}")
        raise


def test_collectives_and_bucket_views(tmp_path):
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    workers = [context.Process(target=every_process, args=(rank, 2, tmp_path, failures)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert failures.empty(), failures.get()
    assert [worker.exitcode for worker in workers] == [0, 0]
