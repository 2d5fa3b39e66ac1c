"""What a user passes by mistake: one line that names the argument, never a fault from deep inside."""

import math
import shlex

import numpy as np
import pytest
import torch
from command import run
from torch import nn

import trcompress
from trcompress.errors import UsageError
from trcompress.training.display import CallingDisplay, NoDisplay


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.LSTM(12, 8, batch_first=True))


X = torch.zeros(4, 5, 12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target_ratio": "8"}, "`target_ratio` must be a finite number: got '8'"),
        ({"target_ratio": math.nan}, "`target_ratio` must be a finite number: got nan"),
        ({"target_ratio": True}, "`target_ratio` must be a finite number: got True"),
        ({"max_params": math.inf}, "`max_params` must be a finite number"),
        ({"max_params": 384}, "`max_params` must be below the 384 parameters of the weights themselves: got 384"),
        ({"max_params": 10**20}, "`max_params` must be below the 384 parameters"),
        ({"target_ratio_model": math.nan, "calibrate": [X]}, "`target_ratio_model` must be a finite number"),
        ({"target_ratio_model": 0.5, "calibrate": [X]}, "`target_ratio_model` must be 1 or more: got 0.5"),
        ({"target_ratio": 2, "calibrate": [X], "refine": -1}, "`refine` must be 0 or more: got -1"),
        ({"target_ratio": 2, "calibrate": [X], "refine": 2.5}, "`refine` must be a whole number: got 2.5"),
        ({"target_ratio": 2, "seed": "a"}, "`seed` must be a whole number: got 'a'"),
        ({"target_ratio": 2, "calibrate": X}, r"`calibrate` must be batches.*one Tensor.*x.split"),
        ({"target_ratio": 2, "calibrate": X.numpy()}, "one ndarray"),
        ({"target_ratio": 2, "calibrate": "data.npz"}, "one str"),
        ({"target_ratio": 2, "calibrate": {"x": X}}, "one dict"),
        ({"target_ratio": 2, "calibrate": 3}, "one int"),
        (
            {"target_ratio": 2, "target_size": "5KB", "calibrate": [X]},
            "`target_ratio` cannot go with `target_size`",
        ),
        ({"plan": "4x3:4x2"}, r"Plan.of.*got '4x3:4x2'"),
    ],
)
def test_arguments_of_another_kind_are_named(given, words):
    with pytest.raises(UsageError, match=words):
        trcompress.compress_(model(), **given)


@pytest.mark.parametrize("given", [None, model().state_dict(), "model.pt", np.zeros(3)])
@pytest.mark.parametrize("function", [trcompress.compress_, trcompress.search_plan])
def test_what_is_no_network_is_refused(function, given):
    with pytest.raises(UsageError, match=r"must be a torch.nn.Module: got"):
        function(given, target_ratio=2)


def test_the_distance_of_outputs_that_do_not_differ_is_relative_to_their_size():
    one = torch.randn(5, 1, 12, generator=torch.Generator().manual_seed(0))
    found = trcompress.compress_(nn.Sequential(nn.LSTM(12, 8), Last()), target_ratio=2, calibrate=[one])
    assert 0 < found.facts["difference_chosen"] <= found.facts["difference_plain"] < 10


class Last(nn.Module):
    """Scores of one example: a single row."""

    def forward(self, states):
        return states[0][-1]


@pytest.mark.parametrize("option", ["--target-ratio", "--max-error", "--target-ratio-model"])
def test_not_a_number_is_one_line_on_the_command_line(tmp_path, option):
    torch.save(model().state_dict(), tmp_path / "m.pt")
    np.savez(tmp_path / "d.npz", x=X.numpy())
    done = run("plan", tmp_path / "m.pt", option, "nan", "--calibrate", tmp_path / "d.npz")
    assert done.code == 2
    assert "nan" in done.stderr


def test_what_a_search_found_prints_as_a_table():
    found = trcompress.search_plan(model(), target_ratio=2, effort="low")
    (one,) = found.weights
    lines = repr(found).splitlines()
    assert lines[0] == "1 of 1 weights planned"
    assert lines[1].split()[:2] == ["chosen", "for"]
    shown = lines[2].split()
    assert shown[:2] == ["0.weight_ih_l0", one.chosen.rule.shape]
    assert shown[2] == ",".join(map(str, one.chosen.weight.structure.ranks[:-1]))
    assert shown[3:7] == [
        f"{one.chosen.weight.parameters:,}",
        f"{one.chosen.weight.compression_ratio:.2f}x",
        f"{one.chosen.error:.4f}",
        f"{one.chosen.bound:.4f}",
    ]


def test_what_a_budget_came_to_prints_as_a_table_and_reports():
    torch.manual_seed(0)
    found = trcompress.compress_(model(), target_size="3KB", calibrate=list(torch.randn(4, 8, 5, 12)))
    lines = repr(found).splitlines()
    assert (
        f"{found.bytes_before:,} -> {found.nbytes:,} bytes ({found.bytes_before / found.nbytes:.2f}x)" in lines[0]
    )
    assert [line.split()[0] for line in lines[2:]] == [row.name.split()[0] for row in found.rows]
    assert found.report().parameters_before == sum(one.numel() for one in model().parameters())


def test_the_line_that_a_calibrated_plan_prints_calibrates_too(tmp_path):
    torch.save(model().state_dict(), tmp_path / "m.pt")
    np.savez(tmp_path / "d.npz", x=torch.randn(32, 5, 12, generator=torch.Generator().manual_seed(0)).numpy())
    data = ("--calibrate", tmp_path / "d.npz", "--outputs", "states", "--kind", "lstm")
    words = ("plan", tmp_path / "m.pt", "--target-ratio", 2, "--effort", "low", *data, "--format", "json")
    found = run(*words).json
    line = shlex.split(found["command"])
    assert line[:3] == ["trcompress", "decompose", str(tmp_path / "m.pt")]
    done = run(*line[1:], "-o", tmp_path / "ring.safetensors")
    assert done.code == 0, done.stderr
    facts = trcompress.read_artifact(tmp_path / "ring.safetensors").header.lineage[-1].settings["calibration"]
    assert facts["measure"] == found["measure"]


def test_a_goal_of_bytes_is_saved_by_what_it_returned(tmp_path):
    network = model()
    result = trcompress.compress_(network, target_ratio_model=1.5, calibrate=[X, X + 1], passes=("rounding",))
    with pytest.raises(UsageError, match="`save` of what it returned"):
        trcompress.save(network, tmp_path / "a.safetensors")
    assert result.save(tmp_path / "a.safetensors").exists()


def test_a_teacher_and_a_function_of_epochs_are_checked_at_once():
    with pytest.raises(UsageError, match=r"must be a torch\.nn\.Module: got function"):
        trcompress.DistillLoss(model(), model)
    with pytest.raises(UsageError, match="`on_epoch` must be a function of an epoch's record: got 'print'"):
        CallingDisplay("print", NoDisplay())
