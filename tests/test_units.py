"""Fewer units: exact while all stay, repaired where some go, refused where something else reads the states."""

import pytest
import torch
from torch import nn

from trcompress.errors import UsageError
from trcompress.layers.swaps import swapped
from trcompress.passes.matrix_moments import matrix_moments
from trcompress.passes.readers import readers_of
from trcompress.passes.units import fewer_units

CASES = [
    (kind, layers, two_way, proj, bias)
    for kind in ("LSTM", "GRU", "RNN")
    for layers, two_way in ((1, False), (2, False), (2, True))
    for proj in ((0, 3) if kind == "LSTM" else (0,))
    for bias in (True, False)
]


class Tagger(nn.Module):
    """A recurrent layer below another one and a head on the last step; `norm` reads states that it may not."""

    def __init__(self, kind: str, layers: int, two_way: bool, proj: int, bias: bool, norm: bool = False) -> None:
        super().__init__()
        options = {"proj_size": proj} if proj else {}
        self.rnn = getattr(nn, kind)(4, 12, layers, bias=bias, batch_first=True, bidirectional=two_way, **options)
        width = (proj or 12) * (1 + two_way)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.top = nn.GRU(width, 5, batch_first=True, bias=bias)
        self.head = nn.Linear(width, 3, bias=bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.norm(self.rnn(x)[0])
        return self.head(states[:, -1]), self.top(states)[0]


def forward(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return model(batch)


def off(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> float:
    return sum((a - b).square().sum().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("kind", "layers", "two_way", "proj", "bias"), CASES)
def test_keeping_every_unit_keeps_every_output(
    kind: str, layers: int, two_way: bool, proj: int, bias: bool
) -> None:
    torch.manual_seed(0)
    model, x = Tagger(kind, layers, two_way, proj, bias).double().eval(), torch.randn(6, 5, 4).double()
    found = fewer_units(model, "rnn", 12, matrix_moments(model, [x], forward), [x], forward)
    assert set(found.readers) == (set() if proj else {"top", "head"})
    with swapped(model, found.swaps) as same:
        for one, other in zip(same(x), model(x), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kind", "layers", "two_way", "proj", "bias"), CASES)
def test_units_that_say_what_others_say_can_go(
    kind: str, layers: int, two_way: bool, proj: int, bias: bool
) -> None:
    torch.manual_seed(0)
    model, x = Tagger(kind, layers, two_way, proj, bias).double().eval(), torch.randn(64, 6, 4).double()
    with torch.no_grad():
        for name, value in model.rnn.named_parameters():
            if not name.startswith("weight_hr"):  # unit k + 6 does as unit k does
                gates = value.view(-1, 12, *value.shape[1:])
                gates[:, 6:] = gates[:, :6]
    wanted = model(x)
    found = fewer_units(model, "rnn", 6, matrix_moments(model, [x], forward), [x], forward)
    with swapped(model, found.swaps) as smaller:
        assert smaller.rnn.hidden_size == 6
        assert type(smaller.rnn) is getattr(nn, kind)
        assert off(smaller(x), wanted) < 1e-5 * off(wanted, tuple(torch.zeros_like(one) for one in wanted))


def test_the_units_that_matter_stay() -> None:
    torch.manual_seed(0)
    model, x = Tagger("LSTM", 1, False, 0, True).eval(), torch.randn(32, 5, 4)
    with torch.no_grad():
        for weight in (model.rnn.weight_hh_l0, model.head.weight, model.top.weight_ih_l0):
            weight[:, 3:] = 0  # only units 0, 1 and 2 are read
    found = fewer_units(model, "rnn", 3, matrix_moments(model, [x], forward), [x], forward)
    assert found.kept["_l0"].tolist() == [0, 1, 2]


def test_a_smaller_layer_trains_saves_and_loads_as_torch_does() -> None:
    torch.manual_seed(0)
    model, x = Tagger("LSTM", 2, True, 0, True), torch.randn(6, 5, 4)
    found = fewer_units(model, "rnn", 5, matrix_moments(model, [x], forward), [x], forward)
    fresh = nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True)
    fresh.load_state_dict(found.swaps["rnn"].state_dict())
    torch.testing.assert_close(fresh(x)[0], found.swaps["rnn"](x)[0])


@pytest.mark.parametrize("trained", [True, False])
def test_states_that_something_else_reads_are_refused(trained: bool) -> None:
    model, x = Tagger("LSTM", 1, False, 0, True, norm=True).eval(), torch.randn(6, 5, 4)
    if trained:  # else all units are alike to the norm, and the order of units says nothing
        with torch.no_grad():
            model.norm.weight.copy_(torch.rand(12))
    with pytest.raises(UsageError, match="read by linear or recurrent layers alone"):
        readers_of(model, "rnn", [x], forward)


def test_cells_and_impossible_numbers_are_refused() -> None:
    cell, x = nn.Sequential(nn.LSTMCell(4, 5)), torch.randn(3, 4)
    with pytest.raises(UsageError, match="0 is a LSTMCell"):
        fewer_units(cell, "0", 3, matrix_moments(cell, [x], forward), [x], forward)
    model, x = Tagger("GRU", 1, False, 0, True), torch.randn(6, 5, 4)
    with pytest.raises(UsageError, match="12 hidden units: keep between 1 and all of them, got 13"):
        fewer_units(model, "rnn", 13, matrix_moments(model, [x], forward), [x], forward)
