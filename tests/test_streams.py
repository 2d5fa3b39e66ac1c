"""Every verb with every standard stream closed, broken or full: one exit code, no traceback, no half a file."""

import os
import shutil

import numpy as np
import pytest
import small_task
import torch
from command import run
from forked import forks
from safetensors import safe_open
from test_outputs import outputs_of
from torch import nn

from trcompress.cli.main import cli

pytestmark = pytest.mark.skipif(
    not (hasattr(os, "fork") and os.path.exists("/dev/full")), reason="needs fork and /dev/full"
)

TINY = ("--classes", 2, "--groups", 2, "--clips-per-group", 1, "--frames", 6, "--size", "32x32")
FEW = ("--quick", "--set", "complexity.ranks=[2,3]", "--set", "complexity.batch=1")

# verb -> its command, and what it writes
COMMANDS = {
    "inspect": (("inspect", "dense.pt"), ()),
    "plan": (("plan", "dense.pt", "--target-ratio", 3), ()),
    "decompose": (("decompose", "dense.pt", "--shape", "6x2:4x4", "--ranks", 2), ("dense.tr.safetensors",)),
    "compress": (
        ("compress", "dense.pt", "--target-size", "2KB", "--calibrate", "data.npz", "--sidecar"),
        ("dense.small.safetensors", "dense.small.safetensors.json"),
    ),
    "finetune": (
        ("finetune", "ring.safetensors", "--data", "data.npz", "--epochs", 1, "--device", "cpu"),
        ("ring.tuned.safetensors", "ring.tuned.metrics.json", "ring.tuned.run"),
    ),
    "evaluate": (("evaluate", "ring.safetensors", "--data", "data.npz"), ()),
    "bench": (("bench", "ring.safetensors", "--baseline", "dense.pt", "--batch", 1, "--seconds", 0.01), ()),
    "export": (("export", "ring.safetensors", "--onnx", "out.onnx"), ("out.onnx",)),
    "report": (("report", "ring.safetensors", "--baseline", "dense.pt"), ()),
    "report -o": (("report", "ring.safetensors", "--format", "html", "-o", "out.html"), ("out.html",)),
    "expand": (("expand", "ring.safetensors"), ("ring.dense.pt",)),
    "data make-clips": (("data", "make-clips", "out", *TINY), ("out",)),
    "data extract": (
        ("data", "extract", "tree", "--backbone", "tiny.onnx", "--cache-dir", "cache", "-o", "out.npz"),
        ("out.npz", "cache"),
    ),
    "reproduce": (("reproduce", "table4-complexity", *FEW, "--out", "out"), ("out",)),
    "recipe show": (("recipe", "show", "synthetic-fig5"), ()),
    "recipe validate": (("recipe", "validate", "synthetic-fig5"), ()),
    "recipe copy": (("recipe", "copy", "synthetic-fig5", "out.toml"), ("out.toml",)),
    "doctor": (("doctor",), ()),
    "demo": (("demo", "--out", "out"), ("out",)),
}  # fmt: skip
QUICK = ("inspect", "decompose", "report -o", "recipe show")
"""Those of the default run; the others take a minute."""

STATES = {
    "stdout closed": ({"stdout": "closed"}, 0),
    "stdout broken": ({"stdout": "broken"}, 0),
    "stdout full": ({"stdout": "full"}, 2),
    "stderr closed": ({"stderr": "closed"}, 0),
    "stderr broken": ({"stderr": "broken"}, 0),
    "stderr full": ({"stderr": "full"}, 0),
    "both closed": ({"stdout": "closed", "stderr": "closed"}, 0),
    "both full": ({"stdout": "full", "stderr": "full"}, 2),
}
"""state -> the streams, and the code of a command that would have ended with 0."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every kind of input."""
    folder = tmp_path_factory.mktemp("streams")
    torch.manual_seed(0)
    network = nn.ModuleDict({"rnn": nn.LSTM(12, 16), "fc": nn.Linear(16, 3)})
    torch.save(network.state_dict(), folder / "dense.pt")
    np.savez(folder / "data.npz", **small_task.arrays())
    ring = ("--shape", "6x2:4x4", "--ranks", 2, "-o", folder / "ring.safetensors")
    assert run("decompose", folder / "dense.pt", *ring).code == 0
    return folder


@pytest.fixture(scope="module")
def videos(files):
    """Clips and a CNN beside them, for `data extract`."""
    for package, extra in (("av", "video"), ("onnxruntime", "onnx"), ("onnxscript", "onnx")):
        pytest.importorskip(package, reason=f"needs the extra [{extra}]")
    from test_data_features import TinyCNN, export

    export(TinyCNN(), files / "tiny.onnx", (1, 3, 24, 32))
    assert run("data", "make-clips", files / "tree", *TINY).code == 0


@pytest.fixture(scope="module")
def command():
    with forks() as start:
        yield start


def is_whole(path):
    """Read a file as its users do."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as stream:
            return [stream.get_tensor(key) for key in stream.keys()] != []  # noqa: SIM118 - no dict
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in arrays] != []
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True) != {}
    if path.suffix == ".html":
        return path.read_text().rstrip().endswith("</html>")
    return path.stat().st_size > 0


def test_every_verb_is_among_them():
    def leaves(group, name=""):
        import click

        with click.Context(group) as context:
            for word in group.list_commands(context):
                one = group.get_command(context, word)
                yield from leaves(one, f"{name}{word} ") if isinstance(one, click.Group) else [name + word]

    assert {name.removesuffix(" -o") for name in COMMANDS} == set(leaves(cli))
    assert set(outputs_of(cli, "")) <= {name.removesuffix(" -o") for name, (_, made) in COMMANDS.items() if made}


def check(command, files, place, name, state):
    """Run a verb in a folder of its own, and look at all that it left."""
    words, outputs = COMMANDS[name]
    folder = place / "in"
    shutil.copytree(files, folder)
    before = set(os.listdir(folder))
    streams, code = STATES[state]
    done = command(*words, cwd=folder, **streams)
    told = (done.code, done.stderr[-2000:])
    assert done.code == code, told
    assert "Traceback" not in done.stderr, told
    assert "Exception ignored" not in done.stderr, told
    assert (code == 0) or streams.get("stderr") or done.stderr.splitlines()[-1].startswith("error: "), told
    made = set(os.listdir(folder)) - before
    assert made <= set(outputs), told
    assert made == set(outputs) or code or name == "demo", told
    for one in made:
        path = folder / one
        inside = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        assert not [each for each in inside if ".trcompress." in each.name or not is_whole(each)], told


@pytest.mark.parametrize("state", list(STATES))
@pytest.mark.parametrize("name", QUICK)
def test_streams_that_take_nothing(command, files, tmp_path, name, state):
    check(command, files, tmp_path, name, state)


@pytest.mark.slow
@pytest.mark.parametrize("state", list(STATES))
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in (*QUICK, "demo")])
def test_streams_that_take_nothing_of_every_other_verb(command, files, tmp_path, name, state, request):
    if name.startswith("data "):
        request.getfixturevalue("videos")
    check(command, files, tmp_path, name, state)


@pytest.mark.parametrize("state", ["stdout broken", "stdout full", "both full"])
def test_the_demo_ends_where_nobody_listens(command, files, tmp_path, state):
    """With its streams closed it runs its minute to the end; `test_demo.py` looks at what it makes."""
    check(command, files, tmp_path, "demo", state)


@pytest.mark.memory
@pytest.mark.parametrize("megabytes", [1, 10, 40])
@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("doctor", "demo") and not name.startswith("data ")]
)
def test_little_memory_is_one_line_of_every_verb(command, files, tmp_path, name, megabytes):
    """`doctor` has a verdict of its own on what fails; demo's steps and decoders are processes of their own.

    What lacks memory first is another machine's choice, and libraries in C may end a process there.
    """
    words, outputs = COMMANDS[name]
    folder = tmp_path / "in"
    shutil.copytree(files, folder)
    before = set(os.listdir(folder))
    done = command(*words, cwd=folder, limits={"RLIMIT_AS": megabytes << 20})
    told = (done.code, done.stderr[-2000:])
    assert done.code in (0, 2), told
    assert "Traceback" not in done.stderr, told
    assert done.code == 0 or "error: not enough memory" in done.stderr, told
    assert set(os.listdir(folder)) - before <= set(outputs), told
