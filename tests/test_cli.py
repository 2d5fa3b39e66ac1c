"""The command line as a user types it: every verb end to end, every fault one line and its exit code."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import process, run
from safetensors.torch import load_file
from torch import nn

from trcompress.cli.main import VERBS


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
    done = run(verb, "--help")
    assert done.code == 0, done.stderr
    assert "Example:" in done.stdout or "Commands:" in done.stdout


def test_the_missions_own_line_in_small(checkpoint, tmp_path):
    out = tmp_path / "model.tr.safetensors"
    done = run("decompose", checkpoint, "--shape", "8x5:8x4", "--ranks", "3,4", "-o", out)
    assert done.code == 0, done.stderr
    assert "compression_ratio (Eq. 7)" in done.stdout
    assert "can do better than" in done.stdout
    assert "rnn.weight_ih_l1 stays dense" in done.stderr
    tensors = load_file(out)
    ring = sum(value.numel() for key, value in tensors.items() if key.startswith("rnn.weight_ih_l0.core."))
    assert ring == 4 * 8 * 3 + 3 * 5 * 3 + 3 * 32 * 3 + 3 * 4 * 4
    report = run("report", out, "--baseline", checkpoint, "--format", "json").json
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
    assert run("decompose", "model.pt", "--shape", "8x5:8x4", "--ranks", "3", cwd=tmp_path).code == 0
    again = run("decompose", "model.pt", "--shape", "8x5:8x4", "--ranks", "3", cwd=tmp_path)
    assert again.code == 2
    assert "the output exists: model.tr.safetensors" in again.stderr
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "model.tr.safetensors"]
    assert (tmp_path / "model.pt").read_bytes() == checkpoint.read_bytes()


def test_one_shape_per_layer_and_per_gate_rings(checkpoint, tmp_path):
    out = tmp_path / "both.safetensors"
    pairs = ("--layer", "*_l0", "--shape", "8x5:8x4", "--layer", "*_l1", "--shape", "8x4:8x4")
    done = run(
        "decompose", checkpoint, *pairs, "--ranks", "2", "--gates", "per-gate", "-o", out, "--format", "json"
    )
    assert done.code == 0, done.stderr
    weights = done.json["weights"]
    assert [weight["rings"] for weight in weights] == [4, 4]
    assert load_file(out)["rnn.weight_ih_l1.core.0"].shape == (4, 2, 8, 2)


@pytest.mark.parametrize("init", ["tr-als", "tr-svd", "random"])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_starts_and_types(checkpoint, tmp_path, init, dtype):
    out = tmp_path / "out.safetensors"
    words = ("--shape", "8x5:8x4", "--ranks", "3", "--init", init, "--dtype", dtype, "--seed", "5", "-o", out)
    done = run("decompose", checkpoint, *words)
    assert done.code == 0, done.stderr
    assert str(load_file(out)["rnn.weight_ih_l0.core.0"].dtype) == f"torch.{dtype}"


def test_dry_run_says_what_would_be_and_writes_nothing(checkpoint, tmp_path):
    out = tmp_path / "out.safetensors"
    words = ("--shape", "8x5:8x4", "--ranks", "3", "-o", out, "--dry-run", "--format", "json")
    done = run("decompose", checkpoint, *words)
    assert done.json["weights"][0]["parameters_after"] == 9 * (8 + 5 + 32 + 4)
    assert not out.exists()


def test_plan_prints_lines_that_decompose_takes(checkpoint, tmp_path):
    done = run("plan", checkpoint, "--target-ratio", "8", "--effort", "low", "--format", "json")
    assert done.code == 0, done.stderr
    found = done.json
    for weight in found["weights"]:
        chosen = next(row for row in weight["rows"] if row["chosen"])
        assert chosen["error"] <= weight["svd_error"] + 1e-12
    words = found["command"].split()[1:]
    again = run(*words, "-o", tmp_path / "planned.safetensors", "--format", "json")
    assert again.code == 0, again.stderr
    assert again.json["compression_ratio"] >= 8


def test_plan_prints_the_lines_of_the_choice_and_of_the_svd_and_all_of_them_with_v(tmp_path):
    torch.manual_seed(0)
    torch.save(nn.LSTM(12, 8).state_dict(), tmp_path / "m.pt")
    words = ("plan", tmp_path / "m.pt", "--target-ratio", "3", "--effort", "low")
    (weight,) = run(*words, "--format", "json").json["weights"]
    rows = weight["rows"]
    svd = min((row for row in rows if row["truncated_svd"]), key=lambda row: row["error"])
    (chosen,) = (row for row in rows if row["chosen"])
    assert len(rows) > 2
    for more, wanted in (((), [row for row in rows if row in (svd, chosen)]), (("-v",), rows)):
        told = [line.strip() for line in run(*words, *more).stdout.splitlines() if "trcompress decompose" in line]
        assert told == [row["command"] for row in wanted]


def test_decompose_plans_by_itself(checkpoint, tmp_path):
    goal = ("--target-ratio", "8", "--effort", "low", "-o", tmp_path / "a.safetensors", "--format", "json")
    done = run("decompose", checkpoint, *goal)
    assert done.code == 0, done.stderr
    assert done.json["compression_ratio"] >= 8
    error = ("--shape", "8x5:8x4", "--max-error", "0.5", "-o", tmp_path / "b.safetensors", "--format", "json")
    done = run("decompose", checkpoint, *error)
    assert done.code == 0, done.stderr
    assert done.json["weights"][0]["error"] <= 0.5


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
        (["report", "CKPT"], 3, "not a trcompress artifact; make one with"),
        (["rePort", "CKPT"], 2, "did you mean 'report'"),
        (["inspect", "CKPT", "--kind", "gruu"], 2, "gru"),
    ],
)
def test_faults_are_one_message_and_a_code(checkpoint, tmp_path, words, code, message):
    done = run(*[str(checkpoint) if word == "CKPT" else word for word in words], cwd=tmp_path)
    assert done.code == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert os.listdir(tmp_path) == []


def test_weights_with_nan_are_refused(tmp_path):
    state = nn.LSTM(8, 4).state_dict()
    state["weight_ih_l0"][3, 2] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    done = run("decompose", tmp_path / "nan.pt", "--shape", "4x2:4", "--ranks", "2")
    assert done.code == 3
    assert "NaN or Inf" in done.stderr
    assert os.listdir(tmp_path) == ["nan.pt"]


def test_a_second_compression_is_refused(checkpoint, tmp_path):
    out = tmp_path / "a.safetensors"
    assert run("decompose", checkpoint, "--shape", "8x5:8x4", "--ranks", "2", "-o", out).code == 0
    done = run("decompose", out, "--shape", "8x5:8x4", "--ranks", "2", "-o", tmp_path / "b.safetensors")
    assert done.code == 3
    assert "already" in done.stderr


def test_inspect_lists_layers_and_what_was_ignored(checkpoint):
    done = run("inspect", checkpoint)
    assert done.code == 0
    for text in ("rnn.weight_ih_l0", "rnn.weight_ih_l1", "optimizer", "epoch", "trcompress plan"):
        assert text in done.stdout
    found = run("inspect", checkpoint, "--format", "json").json
    assert [layer["kind"] for layer in found["layers"]] == ["lstm", "lstm"]


# What only a process can show: the entry points, the exit codes a shell sees, signals, pipes.


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["inspect", "CKPT"], 0),
        (["report", "CKPT"], 3),
        (["inspect", "UNSAFE"], 4),
        (["rePort"], 2),
    ],
)
def test_a_shell_sees_the_exit_code_of_the_installed_command(checkpoint, tmp_path, words, code):
    torch.save({"state_dict": nn.LSTM(4, 3).state_dict(), "run": os.system}, tmp_path / "unsafe.pt")
    files = {"CKPT": checkpoint, "UNSAFE": tmp_path / "unsafe.pt"}
    command = [Path(sys.executable).parent / "trcompress", *[files.get(word, word) for word in words]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert run(*[files.get(word, word) for word in words]).code == code


WAITS = """
import time

def wait():
    print("working", flush=True)
    time.sleep(600)
"""


def test_ctrl_c_is_one_line_and_130(checkpoint, tmp_path):
    (tmp_path / "endless.py").write_text(WAITS)
    started = subprocess.Popen(
        [sys.executable, "-m", "trcompress", "evaluate", checkpoint, "--data", "endless:wait"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert started.stdout.readline() == "working\n"
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 130
    assert "error: interrupted" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("format_", ["human", "json"])
def test_a_reader_that_stops_early_is_no_fault(checkpoint, format_):
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w") as closed:
        shown = process("inspect", checkpoint, "--format", format_, stdout=closed)
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("format_", ["human", "json"])
def test_a_result_that_cannot_be_printed_is_one_line(checkpoint, format_):
    with open("/dev/full", "w") as full:
        shown = process("inspect", checkpoint, "--format", format_, stdout=full)
    assert shown.returncode == 2
    assert (
        shown.stderr == "error: cannot write the result: No space left on device; free some space and run again\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_message_that_cannot_be_written_changes_no_exit_code():
    with open("/dev/full", "w") as full:
        assert process("inspect", "missing", stderr=full).returncode == 3


def test_closed_streams_stay_closed(checkpoint, tmp_path):
    """The file that is written must not become the stdout that was closed."""
    out = tmp_path / "out.safetensors"
    words = f"decompose {checkpoint} --shape 8x5:8x4 --ranks 3 -o {out} >&- 2>&- <&-"
    assert subprocess.run(f"{sys.executable} -m trcompress {words}", shell=True, check=False).returncode == 0
    assert len(load_file(out)) > 8


def test_the_module_is_the_command(checkpoint):
    shown = process("inspect", checkpoint)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == run("inspect", checkpoint).stdout
