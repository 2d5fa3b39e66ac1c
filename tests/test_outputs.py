"""No verb writes over what it reads, whatever the file is called: each verb, each input, each way to name it."""

import json
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import numpy as np
import pytest
import small_task
import torch
from command import run
from safetensors.torch import load_file, save_file
from torch import nn

import trcompress
from trcompress import Plan
from trcompress.cli.main import cli
from trcompress.cli.verbs import VERBS
from trcompress.errors import InputFileError

SHAPE = ("--shape", "6x2:4x4", "--ranks", "2")
ON_DATA = ("--data", "data.npz")
FAST = ("--epochs", 1, "--batch-size", 16, "--device", "cpu")

# verb -> (its command, with OUT where the output goes; the inputs that OUT must not be)
WRITERS = {
    "decompose": (
        ["decompose", "dense.safetensors", *SHAPE, "--calibrate", "data.npz", "-o", "OUT"],
        ("dense.safetensors", "data.npz"),
    ),
    "finetune": (
        ["finetune", "ring.safetensors", *ON_DATA, "--teacher", "dense.safetensors", *FAST, "-o", "OUT"],
        ("ring.safetensors", "data.npz", "dense.safetensors"),
    ),
    "compress": (
        ["compress", "dense.safetensors", "--target-size", "2KB", "--calibrate", "data.npz", "-o", "OUT"],
        ("dense.safetensors", "data.npz"),
    ),
    "compress --finetune": (
        [
            "compress",
            "dense.safetensors",
            "--target-size",
            "2KB",
            "--calibrate",
            "data.npz",
            "--finetune",
            "more.npz",
            "--epochs",
            1,
            "-o",
            "OUT",
        ],
        ("dense.safetensors", "data.npz", "more.npz"),
    ),
    "expand": (["expand", "ring.safetensors", "-o", "OUT"], ("ring.safetensors",)),
    "recipe copy": (["recipe", "copy", "mine.toml", "OUT"], ("mine.toml",)),
    "export": (["export", "ring.safetensors", "--onnx", "OUT"], ("ring.safetensors",)),
    "export --torch-export": (["export", "ring.safetensors", "--torch-export", "OUT"], ("ring.safetensors",)),
    "report": (
        ["report", "ring.safetensors", "--baseline", "dense.safetensors", "-o", "OUT"],
        ("ring.safetensors", "dense.safetensors"),
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every kind of input."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    tensors = {f"rnn.{key}": value for key, value in nn.LSTM(12, 16).state_dict().items()}
    save_file(tensors | {"fc.weight": torch.randn(3, 16), "fc.bias": torch.zeros(3)}, folder / "dense.safetensors")
    for name in ("data.npz", "more.npz"):
        np.savez(folder / name, **small_task.arrays())
    assert run("decompose", folder / "dense.safetensors", *SHAPE, "-o", folder / "ring.safetensors").code == 0
    assert run("recipe", "copy", "synthetic-fig5", folder / "mine.toml").code == 0
    return folder


@pytest.fixture
def inputs(files, tmp_path):
    shutil.copytree(files, tmp_path / "in")
    return tmp_path / "in"


def outputs_of(command, name):
    """Yield the verbs that take an output path, found by what their parameters are called."""
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for sub in command.list_commands(context):
                yield from outputs_of(command.get_command(context, sub), f"{name} {sub}".strip())
    elif any(parameter.name in ("out", "target", "torch_export") for parameter in command.params):
        yield name


FOLDERS = {"data make-clips", "reproduce", "demo", "data extract"}
"""Verbs that write a folder, or read one: tested below, each in its own way."""


def test_every_verb_that_writes_is_tested_here():
    assert set(outputs_of(cli, "")) == {name.partition(" --")[0] for name in WRITERS} | FOLDERS
    assert {name.partition(" ")[0] for name in WRITERS} <= set(VERBS)


CASES = [(verb, source) for verb, (_, sources) in WRITERS.items() for source in sources]


@pytest.mark.parametrize("way", ["itself", "link", "hard link"])
@pytest.mark.parametrize(("verb", "source"), CASES)
def test_no_verb_writes_over_an_input(inputs, verb, source, way):
    out = inputs / source
    if way != "itself":
        out = inputs / f"other{out.suffix}"
        (out.symlink_to if way == "link" else out.hardlink_to)(inputs / source)
    before = {path.name: path.read_bytes() for path in inputs.iterdir()}
    words = [out if word == "OUT" else word for word in WRITERS[verb][0]]
    for more in ([], ["--overwrite"]):
        done = run(*words, *more, cwd=inputs)
        assert done.code == 2, done.stderr
        assert "must not replace the input" in done.stderr
        assert {path.name: path.read_bytes() for path in inputs.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("verb", list(WRITERS))
def test_every_verb_writes_through_a_link_and_refuses_what_is_no_file(inputs, tmp_path, verb):
    suffix = Path(WRITERS[verb][1][0]).suffix
    target, link = tmp_path / f"target{suffix}", tmp_path / f"link{suffix}"
    link.symlink_to(target)
    command = WRITERS[verb][0]
    refused = run(*[link if word == "OUT" else word for word in command], "--overwrite", cwd=inputs)
    assert (refused.code, "leads to no file" in refused.stderr) == (2, True), refused.stderr
    target.write_text("old")
    done = run(*[link if word == "OUT" else word for word in command], "--overwrite", cwd=inputs)
    assert done.code == 0, done.stderr
    assert link.is_symlink()
    assert target.read_bytes() != b"old"
    refused = run(*["/dev/null" if word == "OUT" else word for word in command], "--overwrite", cwd=inputs)
    assert (refused.code, "is a device" in refused.stderr) == (2, True), refused.stderr


OWN_CODE = """
import numpy as np
import torch
from torch import nn
from trcompress.data import from_arrays


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.rnn(x)[1][0][-1])


def data():
    return from_arrays(dict(np.load("data.npz")))
"""
ON_CODE = {
    "decompose": ["decompose", "dense.safetensors", *SHAPE, "--calibrate", "data.npz", "--model", "own.code:Net"],
    "compress": ["compress", "dense.safetensors", "--target-size", "2KB", "--calibrate", "data.npz",
                 "--model", "own.code:Net"],
    "finetune": ["finetune", "ring.safetensors", "--data=own.code:data", *FAST],
    "export": ["export", "ring.safetensors", "--model", "own.code:Net"],
}  # fmt: skip


@pytest.mark.parametrize("way", ["itself", "link", "hard link", "its package"])
@pytest.mark.parametrize("verb", list(ON_CODE))
def test_code_named_on_the_command_line_is_an_input(inputs, verb, way, monkeypatch):
    for name in ("own", "own.code"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (inputs / "own").mkdir()
    code, package = inputs / "own" / "code.py", inputs / "own" / "__init__.py"
    code.write_text(OWN_CODE)
    package.write_text("")
    out = {"itself": code, "its package": package}.get(way, inputs / "other.py")
    if way in ("link", "hard link"):
        (out.symlink_to if way == "link" else out.hardlink_to)(code)
    option = "--torch-export" if verb == "export" else "-o"
    for more in ([], ["--overwrite"]):
        done = run(*ON_CODE[verb], option, out, *more, cwd=inputs)
        assert (done.code, "must not replace the input" in done.stderr) == (2, True), done.stderr
    assert (code.read_text(), package.read_text()) == (OWN_CODE, "")


def test_logs_for_tensorboard_replace_no_file(inputs, tmp_path):
    words = ["finetune", "ring.safetensors", *ON_DATA, *FAST, "-o", tmp_path / "out.safetensors", "--overwrite"]
    before = {path.name: path.read_bytes() for path in inputs.iterdir()}
    for place in ("data.npz", "dense.safetensors"):
        done = run(*words, "--tensorboard", place, cwd=inputs)
        assert done.code in (2, 3), done.stderr
        assert done.stderr.strip().startswith("error: ")
    assert {path.name: path.read_bytes() for path in inputs.iterdir()} == before


def test_a_shard_of_an_index_is_an_input(inputs):
    tensors = load_file(inputs / "dense.safetensors")
    shard = inputs / "model-00001-of-00001.safetensors"
    save_file(tensors, shard)
    index = inputs / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, shard.name)}))
    before = shard.read_bytes()
    done = run("decompose", index, *SHAPE, "-o", shard, "--overwrite")
    assert done.code in (2, 3)
    assert shard.read_bytes() == before


def test_a_recipe_is_not_replaced_by_the_copy_in_its_results(inputs):
    (inputs / "recipe.toml").write_text((inputs / "mine.toml").read_text())
    before = (inputs / "recipe.toml").read_bytes()
    done = run("reproduce", "recipe.toml", "--quick", "--out", ".", "--overwrite", cwd=inputs)
    assert (done.code, "must not replace the input" in done.stderr) == (2, True), done.stderr
    assert (inputs / "recipe.toml").read_bytes() == before


def test_clips_replace_no_file_that_is_not_theirs(tmp_path):
    pytest.importorskip("av", reason="needs the extra [video]")
    words = ["data", "make-clips", tmp_path / "tree", "--classes", 2, "--groups", 2, "--clips-per-group", 1]
    words += ["--frames", 6, "--size", "64x48", "--overwrite"]
    assert run(*words).code == 0
    assert run(*words).code == 0
    own = tmp_path / "tree" / "right" / "notes.txt"
    own.write_text("precious")
    done = run(*words)
    assert (done.code, "files that make-clips did not make (right/notes.txt)" in done.stderr) == (2, True), (
        done.stderr
    )
    assert own.read_text() == "precious"


def test_features_replace_no_clip_and_no_network(tmp_path):
    pytest.importorskip("av", reason="needs the extra [video]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    from test_data_features import TinyCNN, export

    export(TinyCNN(), tmp_path / "tiny.onnx", (1, 3, 24, 32))
    words = ["--classes", 2, "--groups", 2, "--clips-per-group", 1, "--frames", 6, "--size", "64x48"]
    assert run("data", "make-clips", tmp_path / "tree", *words).code == 0
    clip = next((tmp_path / "tree").rglob("*.mpg"))
    for source in (clip, tmp_path / "tiny.onnx"):
        before, out = source.read_bytes(), tmp_path / f"{source.stem}.npz"
        out.hardlink_to(source)
        common = ["data", "extract", tmp_path / "tree", "--backbone", tmp_path / "tiny.onnx", "--workers", 0]
        done = run(*common, "-o", out, "--overwrite", "--cache-dir", tmp_path / "cache")
        assert (done.code, "must not replace the input" in done.stderr) == (2, True), done.stderr
        assert source.read_bytes() == before


@pytest.mark.parametrize("change", ["written to", "replaced", "removed"])
def test_a_checkpoint_that_changes_meanwhile_is_noticed(inputs, tmp_path, change):
    dense, out, done = inputs / "dense.safetensors", tmp_path / "out.safetensors", []

    def tamper(what, fraction):
        if done.append(what) or len(done) > 1:
            return
        if change == "written to":
            with dense.open("r+b") as stream:
                stream.seek(-4, 2)
                stream.write(bytes(4))
        elif change == "replaced":
            (inputs / "new").write_bytes(dense.read_bytes())
            (inputs / "new").replace(dense)
        else:
            dense.unlink()

    with pytest.raises(InputFileError, match=r"dense.safetensors was changed while|cannot read|no such file"):
        trcompress.decompose(dense, Plan.of("6x2:4x4", 2), out, progress=tamper)
    assert list(tmp_path.iterdir()) == [inputs]


CUT_SHORT = """
import os, sys
import trcompress
from trcompress import Plan

def cut(what, fraction):
    os.truncate(sys.argv[1], 4096)

trcompress.decompose(sys.argv[1], Plan.of("6x2:4x4", 2), sys.argv[2], overwrite=True, progress=cut)
"""


@pytest.mark.parametrize("container", ["safetensors", "pt"])
def test_a_checkpoint_cut_short_while_it_is_mapped_loses_nothing_else(tmp_path, container):
    """The system ends the process where it touches what is gone; or the change is noticed first."""
    torch.manual_seed(0)
    tensors = {f"rnn.{key}": value for key, value in nn.LSTM(12, 16).state_dict().items()}
    tensors["emb.weight"] = torch.randn(4096, 64)
    dense, out = tmp_path / f"dense.{container}", tmp_path / "out.safetensors"
    save = {"safetensors": save_file, "pt": torch.save}[container]
    save(tensors, dense)
    out.write_bytes(b"old")
    words = [sys.executable, "-c", CUT_SHORT, dense, out]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    noticed = "dense" in done.stderr and "InputFileError" in done.stderr
    assert done.returncode == -signal.SIGBUS or (done.returncode == 1 and noticed), done.stderr[-500:]
    assert out.read_bytes() == b"old"
    save(tensors, dense)
    again = run("decompose", dense, *SHAPE, "-o", out, "--overwrite")
    assert again.code == 0, again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([dense.name, out.name])


def rewrite(path):
    """Change a file in place, as some programs save."""
    with path.open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(bytes(4))


CHANGED = {
    "compress": (WRITERS["compress"][0], "dense.safetensors", "trcompress.passes.whole_file.whole_"),
    "finetune": (WRITERS["finetune"][0], "ring.safetensors", "trcompress.training.finetune.finished"),
    "finetune, at once": (WRITERS["finetune"][0], "ring.safetensors", "trcompress.training.finetune.file_sha256"),
    "expand": (
        ["expand", "ring.safetensors", "-o", "OUT"],
        "ring.safetensors",
        "trcompress.artifact.expand.unfolded",
    ),
    "export": (WRITERS["export"][0], "ring.safetensors", "trcompress.deploy.sequence.read_sequence_network"),
}
"""verb -> command, the file that changes, and the function before which it does."""


@pytest.mark.parametrize("verb", list(CHANGED))
def test_every_verb_that_writes_notices_a_file_that_changes(inputs, tmp_path, verb, monkeypatch):
    words, name, function = CHANGED[verb]
    module, _, local = function.rpartition(".")
    before = getattr(import_module(module), local)

    def changing(*given, **how):
        rewrite(inputs / name)
        return before(*given, **how)

    monkeypatch.setattr(function, changing)
    out = tmp_path / "out.safetensors"
    done = run(*[out if word == "OUT" else word for word in words], cwd=inputs)
    assert (done.code, f"{name} was changed while it was read" in done.stderr) == (3, True), done.stderr
    assert not out.exists()
