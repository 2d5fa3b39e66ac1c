"""A network of many layers is made to fit in bounded runs of it; a small one as thoroughly as before."""

import pytest
import torch
from torch import nn

from trcompress.artifact.storage import STORAGE
from trcompress.passes import alike
from trcompress.passes.alike import MOST, least_bytes
from trcompress.passes.damage import Damage
from trcompress.passes.levels import choices_of
from trcompress.passes.matrix_moments import matrix_moments
from trcompress.passes.structures import MOST_TRIED
from trcompress.passes.whole import whole_


class Deep(nn.Module):
    """Layers that feed one another, and a head."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stack = nn.ModuleList(nn.RNN(32, 32) for _ in range(layers))
        self.head = nn.Linear(32, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.stack:
            x = x + layer(x)[0]
        return self.head(x[-1])


def deep(layers: int) -> Deep:
    torch.manual_seed(0)
    return Deep(layers).eval()


def inputs(count: int = 4) -> list[torch.Tensor]:
    return list(torch.randn(count, 3, 5, 32, generator=torch.Generator().manual_seed(1)))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs = [0]
    measure = Damage.of

    def of(self: Damage, model: nn.Module) -> float:
        runs[0] += 1
        return measure(self, model)

    monkeypatch.setattr(Damage, "of", of)
    return runs


@pytest.mark.parametrize(("layers", "ratio"), [(5, 2.0), (30, 2.0)])
def test_the_runs_of_a_network_do_not_grow_with_its_layers(
    monkeypatch: pytest.MonkeyPatch, layers: int, ratio: float
) -> None:
    model = deep(layers)
    runs = counted(monkeypatch)
    size = sum(one.nbytes for one in model.parameters())
    found = whole_(model, inputs(), target_bytes=int(size / ratio), outputs="values", passes=("rounding",))
    assert found.reached
    assert runs[0] < 6 * MOST
    matrices = [row for row in found.rows if "weight" in row.name]
    assert len(matrices) == 2 * layers + 1  # every tensor is told
    assert len(found.rows) == len(found.passes) + sum(row.level == "as it is" for row in found.rows)
    together = [rung.what for rung in found.rungs if " like it -> " in rung.what]
    assert bool(together) == (2 * layers > MOST)


def test_units_are_not_tried_unasked_where_layers_are_many() -> None:
    model = deep(MOST_TRIED + 1)
    size = sum(one.nbytes for one in model.parameters())
    found = whole_(model, inputs(), target_bytes=size // 2, outputs="values", passes=("units", "rounding"))
    assert any("every layer keeps its units" in note for note in found.notes)


def test_no_file_is_below_the_least_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep(4)
    for kinds in (["int4"], ["int8"], ["float16"], ["float16", "int8", "int4"]):
        found = whole_(deep(4), inputs(), target_bytes=1, outputs="values", passes=("rounding",), storage=kinds)
        assert not found.reached
        assert found.nbytes - 16_000 < least_bytes(model, kinds) <= found.nbytes
    tied = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    tied[1].load_state_dict(tied[0].state_dict())
    assert least_bytes(tied, list(STORAGE)) == least_bytes(tied[:1], list(STORAGE))


def test_what_is_too_large_at_its_coarsest_is_not_measured_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = sum(one.nbytes for one in deep(3).parameters())

    def fitted(ratio: float) -> tuple[str, int, float, int]:
        runs[0] = 0
        found = whole_(deep(3), inputs(), target_bytes=int(size / ratio), outputs="values")
        return found.structure, found.nbytes, found.damage, runs[0]

    runs = counted(monkeypatch)
    for ratio in (1.4, 2.6):
        *quick, fewer = fitted(ratio)
        with monkeypatch.context() as patch:
            patch.setattr("trcompress.passes.budget_search.least_bytes", lambda model, kinds: 0)
            *thorough, more = fitted(ratio)
        assert quick == thorough
        assert fewer <= more


def test_choices_are_alone_up_to_the_most_and_like_ones_together_beyond() -> None:
    for layers, alone in ((4, True), (40, False)):
        model = deep(layers)
        seen = matrix_moments(model, inputs())
        choices = choices_of(model, seen, packed=False, kinds=["int8"])
        groups = alike.alike(choices)
        assert sorted(name for names in groups.values() for name in names) == sorted(one.name for one in choices)
        assert (len(groups) == len(choices)) == alone
        assert all(len({name.rpartition(".")[2] for name in names}) == 1 for names in groups.values())
        assert len(groups) <= MOST + 4
