"""Fewer units of ring layers: input cores stay, the output side is fitted to the new size, exactly where it can."""

from pathlib import Path

import pytest
import torch
from torch import nn

import trcompress
from trcompress.errors import UsageError
from trcompress.formats import TensorRing
from trcompress.layers import TTLSTM, CoreWeight, layers_of
from trcompress.layers.swaps import swapped
from trcompress.model.plan import Plan
from trcompress.model.weight_plan import WeightPlan
from trcompress.passes.closing import output_side
from trcompress.passes.matrix_moments import bottleneck_of, matrix_moments
from trcompress.passes.opening import opened
from trcompress.passes.units import fewer_units

KINDS = {"LSTM": trcompress.TRLSTM, "GRU": trcompress.TRGRU, "RNN": trcompress.TRRNN}
CASES = [
    (kind, layers, two_way, proj, gates, hidden)
    for kind in KINDS
    for layers, two_way in ((1, False), (2, True))
    for proj in ((0, 3) if kind == "LSTM" else (0,))
    for gates in ("fused", "per-gate")
    for hidden in (12, 11)  # 11 is padded to 12
]


class Tagger(nn.Module):
    """A ring layer below another one and a head on the last step."""

    def __init__(self, kind: str, layers: int, two_way: bool, proj: int, gates: str, hidden: int) -> None:
        super().__init__()
        options = {"proj_size": proj} if proj else {}
        sizes = {"num_layers": layers, "bidirectional": two_way, "batch_first": True}
        plain = getattr(nn, kind)(24, hidden, **sizes, **options)
        rings = Plan.of("4x6:2x6", "2,3").resolve([layers_of(plain)[0].matrix("ih")], as_given=True)
        every = {one.name: one for one in rings}
        for layer in layers_of(plain):
            one = layer.matrix("hh")
            every[one.key] = WeightPlan(one, TensorRing((one.columns,), (one.rows,), (1, 2, 1)))
            if layer.index == 0:
                ring = Plan.of("4x6:2x6", "2,3", gates=gates).resolve([layer.matrix("ih")], as_given=True)
                every[ring[0].name] = ring[0]
        self.rnn = KINDS[kind](24, hidden, **sizes, **options, weights=every)
        width = (proj or hidden) * (1 + two_way)
        top = layers_of(nn.GRU(width, 5))[0].matrix("ih")
        self.top = trcompress.TRGRU(
            width, 5, batch_first=True, weights={top.key: WeightPlan(top, TensorRing((width,), (15,), (1, 2, 1)))}
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.rnn(x)[0]
        return self.head(states[:, -1]), self.top(states)[0]


class Classifier(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def forward(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return model(batch)


def off(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> float:
    return sum((a - b).square().sum().item() for a, b in zip(one, other, strict=True))


def tagger(*sizes: object) -> tuple[Tagger, torch.Tensor]:
    torch.manual_seed(0)
    model = Tagger(*sizes).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():  # so that the inputs matter
        for value in model.rnn.weight_ih_l0.core:
            value.mul_(1.7)
    return model, torch.randn(48, 5, 24).double()


@pytest.mark.parametrize("sizes", CASES)
def test_an_opened_layer_computes_the_same(sizes: tuple[object, ...]) -> None:
    model, x = tagger(*sizes)
    wanted = model(x)
    with opened(model, "rnn") as network:
        cores = [one for one in network.modules() if isinstance(one, CoreWeight)]
        assert cores
        assert {len(one.plan.structure.out_modes) for one in cores} == {1}
        for one, other in zip(network(x), wanted, strict=True):
            torch.testing.assert_close(one, other)
    assert isinstance(model.rnn.weight_hh_l0, CoreWeight)


@pytest.mark.parametrize("sizes", CASES)
def test_keeping_every_unit_keeps_every_output(sizes: tuple[object, ...]) -> None:
    model, x = tagger(*sizes)
    hidden = model.rnn.hidden_size
    found = fewer_units(model, "rnn", hidden, matrix_moments(model, [x], forward), [x], forward)
    assert set(found.readers) == (set() if sizes[3] else {"top", "head"})
    with swapped(model, found.swaps) as same:
        for one, other in zip(same(x), model(x), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("sizes", [one for one in CASES if one[-1] == 12])
def test_units_that_say_what_others_say_can_go(sizes: tuple[object, ...]) -> None:
    """Units k and k + 6 are one: the layer of six is exact, and its output side takes no more values."""
    model, x = tagger(*sizes)
    _twice(model.rnn)
    wanted = model(x)
    before = sum(core.numel() for core in model.rnn.weight_ih_l0.core)
    found = fewer_units(model, "rnn", 6, matrix_moments(model, [x], forward), [x], forward)
    with swapped(model, found.swaps) as smaller:
        assert smaller.rnn.hidden_size == 6
        assert type(smaller.rnn) is type(model.rnn)
        weight = smaller.rnn.weight_ih_l0
        assert sum(core.numel() for core in weight.core) <= before
        for mine, theirs in zip(weight.core[:2], model.rnn.weight_ih_l0.core[:2], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        assert off(smaller(x), wanted) < 1e-4 * off(wanted, tuple(torch.zeros_like(one) for one in wanted))


def _twice(rnn: nn.Module) -> None:
    """Let unit k + 6 do as unit k does: the first output mode is (gates, 2), or 2."""
    gates = {"LSTM": 4, "GRU": 3}.get(rnn.mode, 1)
    with torch.no_grad():
        for name, value in rnn.named_parameters(recurse=False):
            if not name.startswith("weight_hr"):
                grid = value.view(gates, 12, *value.shape[1:])
                grid[:, 6:] = grid[:, :6]
        for weight in rnn.children():
            if len(weight.plan.structure.out_modes) == 2:
                core = weight.core[2].data
                grid = core if weight.plan.per_gate else core.view(core.shape[0], gates, 2, core.shape[-1])
                grid.select(-2, 1).copy_(grid.select(-2, 0))
            else:
                grid = weight.core[-1].data.view(weight.core[-1].shape[0], gates, 12, 1)
                grid[:, :, 6:] = grid[:, :, :6]


def test_the_output_side_is_best_where_the_bottleneck_moves() -> None:
    """In the metric of what the bottleneck gives, the fit errs less than one that takes all directions alike."""
    draw = torch.Generator().manual_seed(0)
    chain = torch.randn(4, 32, 3, generator=draw).double()
    root = torch.randn(12, 12, generator=draw).double() * torch.logspace(0, -3, 12).double()
    metric, plain = root @ root.T, torch.eye(12).double()
    fits = {name: output_side(chain, gram, 4, 120) for name, gram in (("metric", metric), ("plain", plain))}
    assert all(one.values <= 120 for one in fits.values())
    errors = {}
    for name, one in fits.items():
        ring = TensorRing((1,), one.modes, (3, 4, *one.ranks[1:]))
        lost = chain.permute(2, 0, 1).reshape(12, 32) - ring.output_factor([torch.zeros(3, 1, 4), *one.cores])
        errors[name] = (lost * (metric @ lost)).sum().item()
    assert errors["metric"] < 0.5 * errors["plain"]


def test_a_rank_gives_the_output_side_the_values_of_two_factors() -> None:
    torch.manual_seed(0)
    model = Classifier(trcompress.TRLSTM(60, 32, batch_first=True, shape="6x10:4x8", ranks="3,4")).double().eval()
    with torch.no_grad():
        for value in model.rnn.weight_ih_l0.core:
            value.mul_(1.5)
    x = torch.randn(64, 4, 60).double()
    seen, wanted = matrix_moments(model, [x]), model(x)
    values, damage = {}, {}
    for rank in (None, 4, 12):
        found = fewer_units(model, "rnn", 24, seen, [x], lambda network, batch: network(batch), rank=rank)
        with swapped(model, found.swaps) as smaller:
            values[rank] = sum(core.numel() for core in smaller.rnn.weight_ih_l0.core)
            damage[rank] = (smaller(x) - wanted).square().sum().item()
    inputs = sum(core.numel() for core in model.rnn.weight_ih_l0.core[:2])
    assert values[None] < values[4] <= inputs + 4 * (4 * 24 + 12)
    assert damage[None] > 1.5 * damage[4] > 1.5 * damage[12]


def test_bottlenecks_are_recorded_without_the_wide_inputs_moments() -> None:
    torch.manual_seed(0)
    layer, x = trcompress.TRLSTM(2000, 4, shape="40x50:2x2", ranks="2,3"), torch.randn(3, 2, 2000)
    seen = matrix_moments(nn.Sequential(layer), [x]).moments
    assert seen["0.weight_ih_l0"].second is None
    rows = x.reshape(-1, 2000) @ layer.weight_ih_l0.factors()[0]
    second = (rows.T @ rows / 6).double()
    torch.testing.assert_close(seen[bottleneck_of("0.weight_ih_l0")].second, second, rtol=1e-4, atol=1e-6)


def test_formats_without_a_bottleneck_are_refused() -> None:
    model = nn.Sequential(TTLSTM(24, 8, shape="4x6:2x4", rank=2))
    x = torch.randn(3, 2, 24)
    with pytest.raises(UsageError, match="weight_ih_l0 is a tensor-train"):
        fewer_units(model, "0", 4, matrix_moments(model, [x]), [x], lambda network, batch: network(batch))


def test_fewer_units_of_a_ring_go_through_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier(trcompress.TRLSTM(60, 32, batch_first=True, shape="6x10:4x8", ranks="3,4")).eval()
    batches = [torch.randn(8, 4, 60) for _ in range(6)]
    found = trcompress.compress_(
        model, target_size=4_000, calibrate=batches, matrices=("ih", "hh"), units=16, rank=3, packed=True
    )
    assert (found.structure, model.rnn.hidden_size) == ("16 units, rank 3", 16)
    path = found.save(tmp_path / "small.safetensors")
    assert path.stat().st_size <= found.nbytes <= 4_000
    wanted = model(batches[0])
    states = model.rnn(batches[0])[0]
    torch.testing.assert_close(trcompress.load(path)["rnn"](batches[0])[0], states)
    mine = Classifier(nn.LSTM(60, 32, batch_first=True)).eval()
    torch.testing.assert_close(trcompress.load_(path, mine)(batches[0]), wanted)
    torch.testing.assert_close(trcompress.to_plain(model)(batches[0]), wanted)
    rows = {one.name: one for one in trcompress.report(path).tensors}
    assert rows["rnn.weight_ih_l0"].before == 4 * 32 * 60
    assert rows["rnn.weight_hh_l0"].before == 4 * 32 * 32
