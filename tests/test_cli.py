"""The command line as a user types it: every verb end to end, every fault one line and its exit code."""

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from trcompress.cli.main import VERBS, cli


def run(*words, cwd=None, **environment):
    """Run `python -m trcompress` as its own process."""
    return subprocess.run(
        [sys.executable, "-m", "trcompress", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cli")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(40, 32, num_layers=2)
            self.fc = nn.Linear(32, 5)

    torch.save({"model_state": Net().state_dict(), "optimizer": {"step": 3}, "epoch": 7}, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help_with_an_example(verb):
    done = CliRunner().invoke(cli, [verb, "--help"])
    assert done.exit_code == 0, done.output
    assert "Example:" in done.output or "Commands:" in done.output


def test_the_missions_own_line_in_small(checkpoint, tmp_path):
    out = tmp_path / "model.tr.safetensors"
    done = run("decompose", checkpoint, "--shape", "8x5:8x4", "--ranks", "3,4", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "compression_ratio (Eq. 7)" in done.stdout
    assert "can do better than" in done.stdout
    assert "rnn.weight_ih_l1 stays dense" in done.stderr
    tensors = load_file(out)
    ring = sum(value.numel() for key, value in tensors.items() if key.startswith("rnn.weight_ih_l0.core."))
    assert ring == 4 * 8 * 3 + 3 * 5 * 3 + 3 * 32 * 3 + 3 * 4 * 4
    report = json.loads(run("report", out, "--baseline", checkpoint, "--format", "json").stdout)
    assert report["weights"][0]["parameters_after"] == ring
    assert report["weights"][0]["compression_ratio"] == pytest.approx(40 * 128 / ring)
    assert report["file_bytes_before"] == checkpoint.stat().st_size
    assert report["file_bytes_after"] == out.stat().st_size
    assert report["weights"][0]["error_now"] == pytest.approx(report["weights"][0]["error"], abs=1e-5)
    assert report["lineage"][0]["command"].startswith("trcompress decompose")
    assert report["baseline"]["is_the_source"] is True
    total = sum(value.numel() for value in tensors.values())
    assert report["parameters_after"] == total
    assert report["model_ratio"] == pytest.approx(report["parameters_before"] / total)


def test_the_default_output_lies_beside_the_input(checkpoint, tmp_path):
    (tmp_path / "model.pt").write_bytes(checkpoint.read_bytes())
    assert run("decompose", "model.pt", "--shape", "8x5:8x4", "--ranks", "3", cwd=tmp_path).returncode == 0
    again = run("decompose", "model.pt", "--shape", "8x5:8x4", "--ranks", "3", cwd=tmp_path)
    assert again.returncode == 2
    assert "the output exists: model.tr.safetensors" in again.stderr
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "model.tr.safetensors"]
    assert (tmp_path / "model.pt").read_bytes() == checkpoint.read_bytes()


def test_one_shape_per_layer_and_per_gate_rings(checkpoint, tmp_path):
    out = tmp_path / "both.safetensors"
    pairs = ("--layer", "*_l0", "--shape", "8x5:8x4", "--layer", "*_l1", "--shape", "8x4:8x4")
    done = run(
        "decompose", checkpoint, *pairs, "--ranks", "2", "--gates", "per-gate", "-o", out, "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    weights = json.loads(done.stdout)["weights"]
    assert [weight["rings"] for weight in weights] == [4, 4]
    assert load_file(out)["rnn.weight_ih_l1.core.0"].shape == (4, 2, 8, 2)


@pytest.mark.parametrize("init", ["tr-als", "tr-svd", "random"])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_starts_and_types(checkpoint, tmp_path, init, dtype):
    out = tmp_path / "out.safetensors"
    words = ("--shape", "8x5:8x4", "--ranks", "3", "--init", init, "--dtype", dtype, "--seed", "5", "-o", out)
    done = CliRunner().invoke(cli, ["decompose", str(checkpoint), *map(str, words)])
    assert done.exit_code == 0, done.output
    assert str(load_file(out)["rnn.weight_ih_l0.core.0"].dtype) == f"torch.{dtype}"


def test_dry_run_says_what_would_be_and_writes_nothing(checkpoint, tmp_path):
    out = tmp_path / "out.safetensors"
    words = ("--shape", "8x5:8x4", "--ranks", "3", "-o", out, "--dry-run", "--format", "json")
    done = run("decompose", checkpoint, *words)
    assert json.loads(done.stdout)["weights"][0]["parameters_after"] == 9 * (8 + 5 + 32 + 4)
    assert not out.exists()


def test_plan_prints_lines_that_decompose_takes(checkpoint, tmp_path):
    done = run("plan", checkpoint, "--target-ratio", "8", "--time-budget", "4", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for weight in found["weights"]:
        chosen = next(row for row in weight["rows"] if row["chosen"])
        assert chosen["compression_ratio"] >= 8
        assert chosen["error"] <= weight["svd_error"] + 1e-12
    words = found["command"].split()[1:]
    again = run(*words, "-o", tmp_path / "planned.safetensors", "--format", "json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["compression_ratio"] >= 8


def test_decompose_plans_by_itself(checkpoint, tmp_path):
    goal = ("--target-ratio", "8", "--time-budget", "2", "-o", tmp_path / "a.safetensors", "--format", "json")
    done = run("decompose", checkpoint, *goal)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["compression_ratio"] >= 8
    error = ("--shape", "8x5:8x4", "--max-error", "0.5", "-o", tmp_path / "b.safetensors", "--format", "json")
    done = run("decompose", checkpoint, *error)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights"][0]["error"] <= 0.5


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["decompose", "missing.pt", "--shape", "4:4", "--ranks", "2"], 3, "no such file: missing.pt"),
        (["decompose", "CKPT", "--shape", "4:4", "--ranks", "2"], 2, "4 = 4 < 40"),
        (
            ["decompose", "CKPT", "--shape", "8x5:8x4", "--ranks", "2,3,4,5,6"],
            2,
            "must close the ring: got R0=2 and R4=6",
        ),
        (["decompose", "CKPT", "--shape", "8x5", "--ranks", "2"], 2, "--shape is INPUT:OUTPUT"),
        (["decompose", "CKPT", "--ranks", "2"], 2, "needs --shape and --ranks"),
        (["decompose", "CKPT", "--shape", "8x5:8x4", "--ranks", "2", "--layer", "gru"], 2, "'gru' matches none of"),
        (["decompose", "CKPT", "--shape", "8x5:8x4", "--ranks", "2", "-o", "no/where.st"], 2, "folder must exist"),
        (
            ["decompose", "CKPT", "--shape", "8x5:8x4", "--ranks", "2", "-o", "CKPT", "--overwrite"],
            2,
            "not replace the input",
        ),
        (
            ["decompose", "CKPT", "--shape", "8x5:8x4", "--ranks", "2", "--device", "tpu9"],
            2,
            "--device tpu9 cannot be used",
        ),
        (["decompose", "CKPT", "--shape", "8x5:8x4", "--ranks", "2", "--init", "als"], 2, "--init"),
        (["plan", "CKPT"], 2, "exactly one of --target-ratio"),
        (["plan", "CKPT", "--target-ratio", "100000"], 2, "allow more"),
        (["report", "CKPT"], 3, "not a readable safetensors"),
        (["rePort", "CKPT"], 2, "did you mean 'report'"),
        (["inspect", "CKPT", "--kind", "gruu"], 2, "gru"),
    ],
)
def test_faults_are_one_message_and_a_code(checkpoint, tmp_path, words, code, message):
    done = run(*[str(checkpoint) if word == "CKPT" else word for word in words], cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert os.listdir(tmp_path) == []


def test_weights_with_nan_are_refused(tmp_path):
    state = nn.LSTM(8, 4).state_dict()
    state["weight_ih_l0"][3, 2] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    done = run("decompose", tmp_path / "nan.pt", "--shape", "4x2:4", "--ranks", "2")
    assert done.returncode == 3
    assert "NaN or Inf" in done.stderr
    assert os.listdir(tmp_path) == ["nan.pt"]


def test_a_second_compression_is_refused(checkpoint, tmp_path):
    out = tmp_path / "a.safetensors"
    assert run("decompose", checkpoint, "--shape", "8x5:8x4", "--ranks", "2", "-o", out).returncode == 0
    done = run("decompose", out, "--shape", "8x5:8x4", "--ranks", "2", "-o", tmp_path / "b.safetensors")
    assert done.returncode == 3
    assert "already" in done.stderr


def test_inspect_lists_layers_and_what_was_ignored(checkpoint):
    done = run("inspect", checkpoint)
    assert done.returncode == 0
    for text in ("rnn.weight_ih_l0", "rnn.weight_ih_l1", "optimizer", "epoch", "trcompress plan"):
        assert text in done.stdout
    found = json.loads(run("inspect", checkpoint, "--format", "json").stdout)
    assert [layer["kind"] for layer in found["layers"]] == ["lstm", "lstm"]
