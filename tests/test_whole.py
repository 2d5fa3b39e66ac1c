"""One budget for a whole live network: what is promised about bytes, damage and the network left behind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import trcompress
from trcompress.data.arrays import from_arrays
from trcompress.errors import InputFileError, UsageError
from trcompress.network.model_file import open_model
from trcompress.passes.damage import Damage, divide_batches
from trcompress.passes.runnable import runnable_classifier
from trcompress.passes.whole import Whole, whole_


class Speller(nn.Module):
    """Few words, a recurrent layer, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 24)
        self.rnn = nn.LSTM(24, 60, batch_first=True)
        self.head = nn.Linear(60, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0][:, -1])


def speller() -> Speller:
    torch.manual_seed(0)
    model = Speller().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(2)  # so that the states move
    return model


def batches(count: int = 8) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(0, 6, (16, 7), generator=draw) for _ in range(count)]


def fitted(target: int, **settings: object) -> Whole:
    return whole_(speller(), batches(), target_bytes=target, outputs="scores", **settings)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("target", [60_000, 24_000, 14_000])
def test_the_file_is_as_small_as_asked_and_as_large_as_said(tmp_path: Path, target: int, packed: bool) -> None:
    found = fitted(target, packed=packed)
    path = found.save(tmp_path / "out.safetensors")
    assert found.reached
    assert path.stat().st_size <= target
    assert path.stat().st_size <= found.nbytes <= path.stat().st_size + 2000  # the lineage is not in the plan
    again = trcompress.load_(path, Speller()).eval()
    tokens = batches(1)[0]
    torch.testing.assert_close(again(tokens), found.model.eval()(tokens))
    assert again.embedding.embedding_dim == 6  # folded, in a user's own model too


def test_damage_is_of_the_network_left_behind_and_rises_with_the_ratio() -> None:
    inputs = divide_batches(batches())
    damage = Damage(speller(), inputs.held_out, lambda model, batch: model(batch), "scores")
    found = [fitted(target) for target in (60_000, 24_000, 14_000)]
    figures = [max(one.damage, 1e-8) for one in found]  # below lies what float32 sums of a folded matrix differ by
    assert figures == sorted(figures)
    assert figures[0] < figures[-1]
    for one in found:
        assert damage.of(one.model) == pytest.approx(one.damage, rel=1e-3, abs=1e-9)


def test_planning_leaves_the_network_as_it_was() -> None:
    model, tokens = speller(), batches(1)[0]
    wanted = model(tokens)
    found = whole_(model, batches(), target_bytes=14_000, outputs="scores", in_place=False)
    assert found.reached
    assert torch.equal(model(tokens), wanted)
    assert model.embedding.embedding_dim == 24


@pytest.mark.parametrize("ratio", [2, 3, 5])
def test_a_budget_that_is_met_is_met_by_the_file_that_is_written(tmp_path: Path, ratio: float) -> None:
    """Headers of tiny files count: shapes before of both directions, of states, biases and heads are in them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(3, 7, batch_first=True, bidirectional=True))
    before = sum(one.nbytes for one in model.state_dict().values())
    inputs = list(torch.randn(8, 6, 5, 3))
    found = whole_(model, inputs, target_bytes=int(before / ratio), packed=True)
    path = found.save(tmp_path / "out.safetensors")
    assert found.reached == (path.stat().st_size <= before / ratio)
    assert found.nbytes == found.rungs[-1].nbytes == path.stat().st_size


def test_a_network_that_fits_already_is_saved_as_it_is_and_one_that_cannot_fit_warns(tmp_path: Path) -> None:
    kept = trcompress.compress_(speller(), target_size="1MB", calibrate=batches(), passes=("rounding",))
    assert trcompress.load_(kept.save(tmp_path / "kept.safetensors"), Speller()) is not None
    with pytest.warns(UserWarning, match="cannot be met"):
        found = trcompress.compress_(speller(), target_size=300, calibrate=batches())
    assert not found.reached
    assert "more than asked" in repr(found)


def test_units_go_only_where_that_does_less_damage() -> None:
    kept = fitted(24_000)
    assert kept.structure == "every unit"
    small = fitted(8000)
    assert small.reached
    assert small.model.rnn.hidden_size < 60  # four bits everywhere would still be larger
    assert not fitted(8000, passes=("fold", "rounding")).reached


def test_a_network_that_will_be_trained_loses_units_before_bits() -> None:
    found = fitted(14_000, trained=True)
    assert found.reached
    assert found.model.rnn.hidden_size < 60
    assert not any("int4" in row.level for row in found.rows)


def test_faults_are_named() -> None:
    with pytest.raises(UsageError, match="target_bytes must be positive: got 0"):
        fitted(0)
    with pytest.raises(UsageError, match="did you mean 'rounding'"):
        fitted(14_000, passes=("roundings",))
    with pytest.raises(InputFileError, match="at least one batch"):
        whole_(speller(), [], target_bytes=14_000)


def test_one_call_in_python_takes_sizes_as_people_write_them() -> None:
    model = speller()
    found = trcompress.compress_(model, target_size="24KB", calibrate=batches(), outputs="scores")
    assert found.reached
    assert found.nbytes <= 24_000
    assert found.model is model
    ratio = trcompress.compress_(speller(), target_ratio_model=5, calibrate=batches(), outputs="scores")
    assert ratio.reached
    assert ratio.nbytes * 5 <= sum(one.nbytes for one in speller().state_dict().values())
    with pytest.raises(UsageError, match="need `calibrate`"):
        trcompress.compress_(speller(), target_size=9000)
    with pytest.raises(UsageError, match="give one"):
        trcompress.compress_(speller(), target_size=9000, target_ratio_model=3, calibrate=batches())
    with pytest.raises(UsageError, match="such as 500KB"):
        trcompress.compress_(speller(), target_size="nine", calibrate=batches())


@pytest.mark.parametrize(("kept", "sequences"), [(512 * 2**20, 500), (40 * 24 * 4, 40), (1, 8)])
def test_wide_sequences_come_in_batches_small_enough_to_hold_some_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: int, sequences: int
) -> None:
    monkeypatch.setattr("trcompress.passes.runnable.KEPT_BYTES", kept)
    draw = np.random.default_rng(0)
    arrays = {"x_train": draw.normal(size=(500, 6, 4)), "y_train": draw.integers(0, 3, 500)}
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 5, batch_first=True), "fc": nn.Linear(5, 3)})
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    data = from_arrays(arrays, split="none", validation_fraction=0)
    found = runnable_classifier(open_model(tmp_path / "model.safetensors"), data)
    assert sum(len(x) for x, _ in found.batches) == sequences
    inputs = divide_batches(found.batches)
    assert len(inputs.held_out) == 2
    assert len(inputs.fitted) == 6


def test_a_network_that_will_be_trained_is_not_rounded_coarsely_where_fewer_units_make_room() -> None:
    given = {"target_bytes": 7_000, "packed": True}
    trained = whole_(speller(), batches(), trained=True, **given)
    assert trained.reached
    steps = [float(row.level.rpartition(" ")[2]) for row in trained.rows if "steps" in row.level]
    assert steps
    assert max(steps) <= 0.3
    untrained = whole_(speller(), batches(), passes=("fold", "rounding"), **given)
    assert max(float(row.level.rpartition(" ")[2]) for row in untrained.rows if "steps" in row.level) > 0.3


def test_the_first_rung_is_named_by_what_was_done_before_it() -> None:
    whole = fitted(60_000, packed=True)
    assert whole.rungs[0].what == "what is exact"
    assert whole.rungs[0].damage < 1e-8
    given = fitted(24_000, units=40, rank=6)
    assert given.rungs[0].what == "40 units, rank 6"
    assert given.rungs[0].damage > 1e-6  # which is why
