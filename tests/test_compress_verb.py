"""`trcompress compress` and finetuning of few-bit artifacts, as typed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file
from torch import nn

import trcompress
from trcompress import read_artifact
from trcompress.artifact.storage import Rounding, Stored
from trcompress.errors import UsageError


def accuracy(model: Path, data: Path) -> float:
    return run("evaluate", str(model), "--data", str(data), "--format", "json").json["accuracy"]


@pytest.mark.parametrize("more", [(), ("--pack",), ("--passes", "rounding")])
def test_the_file_is_as_small_as_asked(task: tuple[Path, Path], tmp_path: Path, more: tuple[str, ...]) -> None:
    dense, data = task
    out = tmp_path / "small.safetensors"
    words = ("compress", str(dense), "--target-size", "12KB", "--calibrate", str(data), "-o", str(out), *more)
    found = run(*words, "--format", "json")
    assert found.code == 0, found.stderr
    assert found.json["file_bytes"] == out.stat().st_size <= 12_000
    assert [one["nbytes"] for one in found.json["ladder"]][-1] <= 12_000
    assert accuracy(out, data) >= accuracy(dense, data) - 0.05
    shown = run("report", str(out), "--baseline", str(dense), "--format", "json")
    assert shown.code == 0, shown.stderr


def test_a_ratio_counts_every_byte_of_the_model(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    out = tmp_path / "small.safetensors"
    found = run("compress", str(dense), "--target-ratio-model", "3", "--calibrate", str(data), "-o", str(out))
    assert found.code == 0, found.stderr
    tensors = sum(one.nbytes for one in read_artifact(out).tensors.values())
    assert out.stat().st_size <= tensors / 3
    assert "of the whole model" in found.stdout


def test_fewer_units_are_trained_aware_of_the_rounding(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    out = tmp_path / "tiny.safetensors"
    words = ("compress", str(dense), "--target-size", "4KB", "--calibrate", str(data), "--finetune", str(data))
    found = run(*words, "--epochs", "6", "-o", str(out), "--sidecar")
    assert found.code == 0, found.stderr
    shown = run("report", out, "--baseline", dense, "--format", "json").json
    assert [one["verb"] for one in shown["lineage"]] == ["compress", "finetune"]
    assert shown["parameters_before"] == sum(one.numel() for one in load_file(dense).values())
    timed = run("bench", out, "--baseline", dense, "--batch", "2", "--steps", "2", "--seconds", "0.01")
    assert timed.code == 0, timed.stderr
    assert "trained: accuracy" in found.stdout
    artifact = read_artifact(out)
    assert out.stat().st_size <= 4_000
    assert artifact.header.layers[0].hidden_size < 32
    assert accuracy(out, data) >= accuracy(dense, data) - 0.05


def test_a_large_trained_file_holds_its_history_and_is_no_larger_than_asked(
    task: tuple[Path, Path], tmp_path: Path
) -> None:
    _, data = task
    dense, out = tmp_path / "dense.safetensors", tmp_path / "large.safetensors"
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.LSTM(40, 96, batch_first=True), "fc": nn.Linear(96, 3)})
    save_file(model.state_dict(), dense)
    words = ("compress", dense, "--target-size", "64KB", "--calibrate", data, "--finetune", data, "--epochs", "1")
    found = run(*words, "-o", out)
    assert found.code == 0, found.stderr
    assert [one.verb for one in read_artifact(out).header.lineage] == ["compress", "finetune"]
    assert out.stat().st_size <= 64_000
    told = replace(trcompress.data.load_data(data), name="n" * 3_000)  # more than any guess of the history leaves
    long = trcompress.compress(
        dense, tmp_path / "long.safetensors", calibrate=data, target_size="66KB", finetune=told, epochs=1
    )
    assert "n" * 3_000 in long.header.metrics["measured_on"]
    assert (tmp_path / "long.safetensors").stat().st_size <= 66_000


def test_python_trains_as_the_verb_does(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    out, mine = tmp_path / "verb.safetensors", tmp_path / "python.safetensors"
    words = ("--target-size", "4KB", "--calibrate", data, "--finetune", data, "--epochs", "2", "--seed", "3")
    assert run("compress", dense, *words, "-o", out).code == 0
    given = {"calibrate": data, "target_size": 4_000, "finetune": data, "seed": 3}
    found = trcompress.compress(dense, mine, **given, epochs=2)
    verb = read_artifact(out)
    assert all(torch.equal(one, found.tensors[key]) for key, one in verb.tensors.items())
    whole = trcompress.FinetuneSettings(epochs=2, seed=3, batch_size=32)
    trcompress.compress(dense, mine, **given, settings=whole, overwrite=True)
    assert all(torch.equal(one, read_artifact(mine).tensors[key]) for key, one in verb.tensors.items())
    with pytest.raises(UsageError, match="`finetune` would not be used without `out`"):
        trcompress.compress(dense, **given)


def test_the_checkpoint_teaches_unless_another_file_does(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    other = tmp_path / "other.safetensors"
    save_file({key: -one for key, one in load_file(dense).items()}, other)
    given = ("compress", dense, "--target-size", "4KB", "--calibrate", data, "--finetune", data, "--epochs", "1")
    for number, (words, teacher) in enumerate((((), dense), (("--teacher", other), other))):
        found = run(*given, *words, "-o", tmp_path / f"{number}.safetensors", "--format", "json")
        assert found.code == 0, found.stderr
        assert found.json["metrics"]["accuracy_teacher"] == accuracy(teacher, data)
    assert run(*given, "--teacher", other, "-o", other, "--overwrite").code == 2  # an input is never replaced


def test_finetuning_keeps_the_storage_and_measures_what_it_writes(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    small, tuned = tmp_path / "small.safetensors", tmp_path / "tuned.safetensors"
    run("compress", str(dense), "--target-size", "12KB", "--calibrate", str(data), "-o", str(small))
    words = ("finetune", str(small), "--data", str(data), "--epochs", "2", "-o", str(tuned), "--format", "json")
    found = run(*words)
    assert found.code == 0, found.stderr
    before, after = read_artifact(small), read_artifact(tuned)
    assert {key: one.kind for key, one in after.stored.items()} == {k: one.kind for k, one in before.stored.items()}
    assert found.json["metrics"]["accuracy_after"] == accuracy(tuned, data)
    words = ("finetune", str(small), "--data", str(data), "--epochs", "1", "--rounding", "int4")
    four = run(*words, "-o", str(tmp_path / "four.safetensors"))
    assert four.code == 0, four.stderr
    kinds = {
        one.kind for key, one in read_artifact(tmp_path / "four.safetensors").stored.items() if "weight" in key
    }
    assert kinds == {"int4"}


def test_faults_are_told_before_anything_is_written(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    out = tmp_path / "small.safetensors"
    given = ("compress", str(dense), "--calibrate", str(data), "-o", str(out))
    for words, message in (
        ((), "--target-size or --target-ratio-model"),
        (("--target-size", "0.9KB"), "the budget cannot be met"),
        (("--target-size", "many"), "a size must be such as 500KB"),
        (("--target-size", "9KB", "--passes", "magic"), "must be some of fold, rings, units, rounding"),
    ):
        found = run(*given, *words)
        assert found.code == 2
        assert message in " ".join(found.stderr.split())
    assert not out.exists()


def test_data_of_another_width_is_refused_by_name(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    given = ("compress", dense, "--target-size", "12KB", "--calibrate", data, "-o", tmp_path / "small.safetensors")
    found = run(*given, "--data-option", "steps=3")
    assert found.code == 3, found.stderr
    assert "80" in found.stderr
    assert "40" in found.stderr


def test_straight_through_moves_values_that_rounding_hides() -> None:
    from trcompress.training.straight_through import StraightThrough

    layer = nn.Linear(8, 4)
    rounding = StraightThrough(layer, {"weight": Rounding("int4")})
    own = layer.weight.detach().clone()
    with rounding.step():
        assert len(layer.weight.unique()) <= 16 * 4
        layer(torch.ones(2, 8)).sum().backward()
    assert torch.equal(layer.weight.detach(), own)
    assert layer.weight.grad is not None
    with rounding.as_stored() as stored:
        assert torch.equal(layer.weight.detach(), Stored.of(own, "int4").expand())
        assert torch.equal(stored["weight"].expand(), layer.weight.detach())


def test_json_of_the_ladder_is_whole(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    words = ("compress", dense, "--target-size", "12KB", "--calibrate", data, "-o", tmp_path / "o")
    found = run(*words, "--format", "json")
    document = json.loads(found.stdout)
    assert {"ladder", "tensors", "damage", "measure", "structure", "passes", "file_bytes"} <= set(document)


def test_a_ring_artifact_is_compressed_further_and_counted_from_its_dense_model(
    task: tuple[Path, Path], tmp_path: Path
) -> None:
    dense, data = task
    ring, out = tmp_path / "ring.safetensors", tmp_path / "small.safetensors"
    assert run("decompose", dense, "--shape", "8x5:8x4", "--ranks", "4", "-o", ring).code == 0
    words = ("compress", ring, "--target-ratio-model", "4", "--calibrate", data, "-o", out, "--format", "json")
    found = run(*words)
    assert found.code == 0, found.stderr
    assert found.json["tensor_bytes_before"] == sum(one.nbytes for one in load_file(dense).values())
    assert out.stat().st_size * 4 <= found.json["tensor_bytes_before"]
    assert read_artifact(out).weight_plans().keys() == {"rnn.weight_ih_l0"}


def test_a_ring_that_pays_no_more_where_units_go_is_dense_in_the_file_too(
    task: tuple[Path, Path], tmp_path: Path
) -> None:
    """Two factors 32:32 of weight_hh are 384 values; of 8 units it has 64."""
    _, data = task
    dense, ring, out = (tmp_path / f"{name}.safetensors" for name in ("dense", "ring", "small"))
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.RNN(40, 32, batch_first=True), "fc": nn.Linear(32, 3)})
    save_file(model.state_dict(), dense)
    trcompress.decompose(dense, trcompress.Plan.of("32:32", "2,3"), ring, matrices=("hh",), init="tr-svd")
    assert read_artifact(ring).weight_plans().keys() == {"rnn.weight_hh_l0"}
    words = ("--target-size", "4KB", "--calibrate", data, "--units", "8", "--passes", "units,rounding", "-o", out)
    found = run("compress", ring, *words)
    assert found.code == 0, found.stderr
    made = read_artifact(out)
    assert not made.weight_plans()
    assert made.tensors["rnn.weight_hh_l0"].shape == (8, 8)
    assert made.header.original["rnn.weight_hh_l0"] == (32, 32)
    assert run("evaluate", out, "--data", data).code == 0


@pytest.mark.parametrize("ring", [False, True])
def test_tokens_are_looked_up_in_the_embedding_of_a_checkpoint_and_of_an_artifact(
    tmp_path: Path, ring: bool
) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    x = rng.integers(0, 30, (90, 5)) + 30 * y[:, None]
    data, path, out = tmp_path / "tokens.npz", tmp_path / "net.safetensors", tmp_path / "small.safetensors"
    np.savez(data, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    torch.manual_seed(0)
    rnn = nn.LSTM(24, 16, batch_first=True)
    model = nn.ModuleDict({"embedding": nn.Embedding(90, 24), "rnn": rnn, "fc": nn.Linear(16, 3)})
    save_file(model.state_dict(), path)
    if ring:
        trcompress.decompose(path, trcompress.Plan.of("4x6:4x4", 2), path := tmp_path / "ring", init="tr-svd")
    found = run("compress", path, "--target-ratio-model", "2.5", "--calibrate", data, "-o", out)
    assert found.code == 0, found.stderr
    assert "tokens are looked up in embedding.weight" in found.stdout
    assert "divergence of the class scores" in found.stdout
    assert run("evaluate", out, "--data", data).code == 0


def test_plan_shows_the_ladder_and_writes_nothing(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    words = ("plan", dense, "--target-size", "12KB", "--calibrate", data, "--format", "json")
    found = run(*words, cwd=tmp_path)
    assert found.code == 0, found.stderr
    assert found.json["file_bytes"] <= 12_000
    assert found.json["ladder"]
    assert not list(tmp_path.iterdir())


def test_plan_shows_the_ladder_that_is_walked_before_training(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    words = (dense, "--target-size", "4KB", "--calibrate", data, "--finetune", data, "--format", "json")
    planned = run("plan", *words, cwd=tmp_path)
    assert planned.code == 0, planned.stderr
    assert not list(tmp_path.iterdir())
    done = run("compress", *words, "--epochs", "1", "-o", tmp_path / "small.safetensors")
    assert [planned.json[name] for name in ("ladder", "passes")] == [
        done.json[name] for name in ("ladder", "passes")
    ]
    assert "units" in {one["kind"] for one in planned.json["passes"]}
    alone = run("plan", dense, "--target-ratio", "4", "--finetune", data)
    assert alone.code == 2
    assert "--finetune would not be used without --target-size" in " ".join(alone.stderr.split())
    with pytest.raises(UsageError, match="`finetune` would not be used without `out`"):
        trcompress.compress(dense, calibrate=data, target_size=4_000, finetune=data)


DENSE_READING = {
    "--kind": "lstm",
    "--skip-objects": None,
    "--drop": "x",
    "--allow-nonfinite": "x",
    "--ignore-unknown": "x",
}


def options_beside_an_artifact() -> list[tuple[str, str]]:
    every = list(DENSE_READING)
    offered = {
        "inspect": ["--kind", "--skip-objects", "--ignore-unknown"],
        "evaluate": every[:2],
        "finetune": every[:2],
        "compress": every[:4],
        "plan": every[:2],
        "report": every[:2],
    }
    return [(verb, option) for verb, options in offered.items() for option in options]


@pytest.mark.parametrize(("verb", "option"), options_beside_an_artifact())
def test_how_a_dense_checkpoint_is_read_is_refused_beside_an_artifact(
    task: tuple[Path, Path], tmp_path: Path, verb: str, option: str
) -> None:
    dense, data = task
    ring = tmp_path / "ring.safetensors"
    plan = trcompress.Plan.of("5x8:4x8", 2)
    trcompress.decompose(dense, plan, ring, init="tr-svd")
    before = sorted(tmp_path.iterdir())
    words = {
        "inspect": (),
        "evaluate": ("--data", data),
        "finetune": ("--data", data, "--epochs", "1"),
        "compress": ("--target-size", "9KB", "--calibrate", data),
        "plan": ("--target-size", "9KB", "--calibrate", data),
        "report": (),
    }[verb]
    value = DENSE_READING[option]
    found = run(verb, ring, *words, option, *([value] if value else []))
    assert found.code == 2, found.stdout
    assert f"{option} would not be used" in " ".join(found.stderr.split())
    assert sorted(tmp_path.iterdir()) == before


def test_how_a_dense_checkpoint_is_read_is_used_where_one_stands_beside(
    task: tuple[Path, Path], tmp_path: Path
) -> None:
    dense, data = task
    ring = tmp_path / "ring.safetensors"
    trcompress.decompose(dense, trcompress.Plan.of("5x8:4x8", 2), ring, init="tr-svd")
    for words in (
        ("evaluate", ring, "--data", data, "--baseline", dense),
        ("finetune", ring, "--data", data, "--teacher", dense, "--epochs", "1"),
        ("report", ring, "--baseline", dense),
        ("bench", ring, "--baseline", dense, "--batch", "1", "--steps", "2", "--seconds", "0.01"),
    ):
        found = run(*words, "--kind", "lstm")
        assert found.code == 0, found.stderr
        wrong = run(*words, "--kind", "gru", *(["--overwrite"] if words[0] == "finetune" else []))
        assert wrong.code in (2, 3), words[0]


def test_a_file_that_is_not_understood_is_refused_by_name(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    state = load_file(dense) | {"rnn.peephole": torch.ones(32)}
    torch.save(state, tmp_path / "odd.pt")
    words = ("compress", tmp_path / "odd.pt", "--target-size", "12KB", "--calibrate", data, "-o", tmp_path / "o")
    found = run(*words)
    assert found.code == 3
    assert "rnn.peephole" in found.stderr
    assert not (tmp_path / "o").exists()


def test_sizes_that_change_nothing_are_refused(task: tuple[Path, Path], tmp_path: Path) -> None:
    dense, data = task
    words = ("compress", dense, "--target-size", "9KB", "--calibrate", data, "-o", tmp_path / "o.safetensors")
    found = run(*words, "--units", 99)
    assert found.code == 2
    assert "--units 99 must change something: layers whose units may go have: rnn 32" in found.stderr
