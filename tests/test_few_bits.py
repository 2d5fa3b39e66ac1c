"""Every verb on every storage: what a few-bit file stands for is one network, whoever reads it."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_task
import torch
from command import run
from safetensors.torch import load_file
from test_distributed import run as run_processes
from test_resume import StopAt, same_files

import trcompress
from trcompress import read_artifact
from trcompress.artifact import write
from trcompress.artifact.storage import STORAGE, Rounding, Stored
from trcompress.artifact.write import write_artifact
from trcompress.training.finetune import finetune
from trcompress.training.run_state import RunInterruptedError

CASES = [
    *((kind, packed, compact) for kind in STORAGE for packed, compact in ((False, True), (True, True))),
    ("int8", False, False),
    ("int4", True, False),
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return small_task.write_files(tmp_path_factory.mktemp("task"))


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(
    task: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A ring artifact with every matrix stored in one way; `values` are those that it stands for."""
    kind, packed, compact = request.param
    monkeypatch.setattr(write, "COMPACT_BELOW", 20_000 if compact else 0)
    artifact = read_artifact(task["ring"])
    stored = {key: Stored.of(one, kind) for key, one in artifact.tensors.items() if one.dim() > 1}
    artifact = replace(artifact, stored=stored, packed=packed, path=None)
    artifact.tensors |= {key: one.expand() for key, one in stored.items()}
    path = write_artifact(tmp_path / "few.safetensors", artifact)
    plain = replace(artifact, stored={}, packed=False)
    return task | {
        "few": path,
        "plain": write_artifact(tmp_path / "plain.safetensors", plain),
        "kind": kind,
        "values": artifact.tensors,
        "folder": tmp_path,
    }


def evaluated(path: Path, data: Path) -> Any:
    found = run("evaluate", path, "--data", data, "--format", "json").json
    return {name: value for name, value in found.items() if name not in ("model", "sequences_per_s", "seconds")}


def test_the_file_holds_what_it_stands_for(case: dict[str, Any]) -> None:
    read = read_artifact(case["few"])
    assert read.tensors.keys() == case["values"].keys()
    assert all(torch.equal(one, case["values"][key]) for key, one in read.tensors.items())
    assert {one.kind for one in read.stored.values()} == {case["kind"]}


def test_evaluate_report_bench_and_inspect(case: dict[str, Any]) -> None:
    few, plain = (evaluated(case[name], case["data"]) for name in ("few", "plain"))
    assert few["accuracy"] == plain["accuracy"]
    assert few["loss"] == plain["loss"]
    told = run("report", case["few"], "--baseline", case["dense"], "--format", "json").json
    assert told["file_bytes_after"] == case["few"].stat().st_size < case["plain"].stat().st_size
    other = run("report", case["plain"], "--baseline", case["dense"], "--format", "json").json
    assert [one["error_now"] for one in told["weights"]] == [one["error_now"] for one in other["weights"]]
    held = run("inspect", case["few"], "--format", "json").json
    assert held["file_bytes"] == told["file_bytes_after"]
    assert held["tensor_bytes"] == sum(held["storage"].values()) == sum(one["bytes"] for one in held["tensors"])
    assert case["kind"] in held["storage"]
    assert bool(held["packed"]) == bool(read_artifact(case["few"]).packed)
    words = ("--baseline", case["dense"], "--batch", 2, "--steps", 2, "--seconds", 0.01, "--format", "json")
    assert run("bench", case["few"], *words).json


def test_the_ways_out_give_the_same_network(case: dict[str, Any]) -> None:
    out = {name: case["folder"] / f"expanded_{name}.safetensors" for name in ("few", "plain")}
    for name, path in out.items():
        done = run("expand", case[name], "-o", path)
        assert done.code == 0, done.stderr
    few, plain = (load_file(path) for path in out.values())
    assert few.keys() == plain.keys()
    assert all(torch.equal(one, plain[key]) for key, one in few.items())
    x = torch.randn(3, small_task.STEPS, small_task.INPUTS)
    rings = [trcompress.load(case[name])["encoder.rnn"] for name in ("few", "plain")]
    assert torch.equal(rings[0](x)[0], rings[1](x)[0])
    torch.testing.assert_close(trcompress.to_plain(rings[0])(x)[0], rings[1](x)[0])
    mine = trcompress.load_(case["few"], small_task.Network()).eval()
    theirs = trcompress.load_(case["plain"], small_task.Network()).eval()
    assert torch.equal(mine(x), theirs(x))
    exported = run("export", case["few"], "--onnx", case["folder"] / "net.onnx")
    assert exported.code == 0, exported.stderr


def test_training_keeps_the_storage_and_resumes_bit_for_bit(case: dict[str, Any]) -> None:
    folder, data = case["folder"], small_task.data_set()
    options: dict[str, Any] = {"epochs": 3, "batch_size": 7, "lr": 1e-2, "device": "cpu"}
    whole = finetune(case["few"], data, folder / "whole.safetensors", **options)
    parts = folder / "parts.safetensors"
    with pytest.raises(RunInterruptedError):
        finetune(case["few"], data, parts, **options, display=StopAt(1, signal.SIGTERM))
    resumed = finetune(case["few"], data, parts, **options, resume=True)
    assert same_files(parts, whole.out)
    assert resumed.metrics == whole.metrics
    before, after = read_artifact(case["few"]), read_artifact(whole.out)
    assert {key: one.kind for key, one in after.stored.items()} == {
        key: one.kind for key, one in before.stored.items()
    }
    assert after.packed == before.packed
    assert any(not torch.equal(one, before.tensors[key]) for key, one in after.tensors.items())
    measured = run("evaluate", whole.out, "--data", case["data"], "--format", "json").json
    assert measured["accuracy"] == whole.metrics["accuracy_after"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("packed", [False, True])
def test_two_processes_train_what_one_trains(
    task: dict[str, Path], tmp_path: Path, kind: str, packed: bool
) -> None:
    artifact = read_artifact(task["ring"])
    stored = {key: Stored.of(one, kind) for key, one in artifact.tensors.items() if one.dim() > 1}
    artifact = replace(artifact, stored=stored, packed=packed, path=None)
    artifact.tensors |= {key: one.expand() for key, one in stored.items()}
    few = write_artifact(tmp_path / "few.safetensors", artifact)
    words = ("finetune", few, "--data", task["data"], "--epochs", 2, "--dropout", 0, "--device", "cpu")
    losses = {}
    for processes in (1, 2):
        out = tmp_path / f"{processes}.safetensors"
        found = run_processes(processes, *words, "--format", "json", "-o", out)
        losses[processes] = [one["loss"] for one in found["history"] if "loss" in one]
        assert {one.kind for one in read_artifact(out).stored.values()} == {kind}
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)


def test_training_keeps_merged_biases_merged_and_the_file_within_its_bytes(
    task: dict[str, Path], tmp_path: Path
) -> None:
    artifact = read_artifact(task["ring"])
    merged = artifact.tensors["encoder.rnn.bias_ih_l0"] + artifact.tensors["encoder.rnn.bias_hh_l0"]
    artifact.tensors |= {"encoder.rnn.bias_ih_l0": merged, "encoder.rnn.bias_hh_l0": torch.zeros_like(merged)}
    artifact.stored = {
        "encoder.rnn.weight_hh_l0": Rounding("int8", 0.3).of(artifact.tensors["encoder.rnn.weight_hh_l0"])
    }
    artifact.tensors |= {key: one.expand() for key, one in artifact.stored.items()}
    artifact = replace(artifact, packed=True, path=None)
    few, out = write_artifact(tmp_path / "few.safetensors", artifact), tmp_path / "out.safetensors"
    options: dict[str, Any] = {"epochs": 2, "lr": 3e-2, "device": "cpu", "overwrite": True}
    finetune(few, small_task.data_set(), out, **options)
    tuned = read_artifact(out)
    assert not tuned.tensors["encoder.rnn.bias_hh_l0"].any()
    assert not torch.equal(tuned.tensors["encoder.rnn.bias_ih_l0"], merged)
    most = out.stat().st_size - 1_000  # more than coarser integers give: what was not rounded becomes float16
    found = finetune(few, small_task.data_set(), out, **options, most_bytes=most)
    assert out.stat().st_size <= most
    measured = run("evaluate", out, "--data", task["data"], "--format", "json").json
    assert measured["accuracy"] == found.metrics["accuracy_after"]
