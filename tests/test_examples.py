"""Every example of every --help runs as it stands, in a folder that holds the files it names."""

import shlex
import shutil

import click
import numpy as np
import pytest
import torch
from command import run
from torch import nn

from trcompress.cli.main import cli

SLOW = ("trcompress demo", "trcompress reproduce synthetic-fig5")
INPUTS, STEPS, CLASSES = 48, 6, 3


def examples(command, name=""):
    """Yield the lines after "Example:" of a command and all commands under it."""
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for sub in command.list_commands(context):
                yield from examples(command.get_command(context, sub), f"{name} {sub}".strip())
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.strip().startswith("Example:"):
            yield " ".join(paragraph.split()).removeprefix("Example: ")


LINES = sorted(set(examples(cli)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """model.pt, its ring model.tr.safetensors of full ranks, data.npz, mine.toml."""
    folder = tmp_path_factory.mktemp("examples")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = nn.ModuleDict({"rnn": nn.LSTM(INPUTS, 32), "fc": nn.Linear(32, CLASSES)})
    torch.save(network.state_dict(), folder / "model.pt")
    y = np.arange(90) % CLASSES
    x = rng.normal(size=(CLASSES, STEPS, INPUTS))[y] + rng.normal(size=(90, STEPS, INPUTS))
    split = {"train": slice(0, 60), "test": slice(60, 90)}
    arrays = {f"x_{part}": x[rows].astype(np.float32) for part, rows in split.items()}
    np.savez(folder / "data.npz", **arrays, **{f"y_{part}": y[rows] for part, rows in split.items()})
    words = ("--shape", "8x6:8x4", "--ranks", "full", "-o", "model.tr.safetensors")
    assert run("decompose", "model.pt", *words, cwd=folder).code == 0
    assert run("recipe", "copy", "synthetic-fig5", "mine.toml", cwd=folder).code == 0
    return folder


def videos(folder):
    """What the example of `data extract` names: a small tree of clips, and a network as ONNX."""
    pytest.importorskip("av", reason="needs the extra [video]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    from test_data_features import TinyCNN, export

    export(TinyCNN(), folder / "inception.onnx", (1, 3, 48, 64))
    words = ("--layout", "hmdb51", "--classes", 2, "--groups", 4, "--clips-per-group", 1, "--size", "64x48")
    assert run("data", "make-clips", "hmdb51_org", *words, cwd=folder).code == 0


def test_there_are_examples():
    assert len(LINES) >= 15


@pytest.mark.parametrize("line", [pytest.param(line, marks=[pytest.mark.slow] * (line in SLOW)) for line in LINES])
def test_an_example_runs(files, tmp_path, line):
    shutil.copytree(files, tmp_path / "here")
    here = tmp_path / "here"
    words = shlex.split(line)
    if words[1:3] == ["data", "extract"]:
        videos(here)
    if words[2:4] == ["copy", "ucf11-table1-tr"]:
        (here / "mine.toml").unlink()
    if words[1:2] == ["decompose"]:
        torch.save(nn.LSTM(57600, 256).state_dict(), here / "model.pt")
        (here / "model.tr.safetensors").unlink()
        words.append("--dry-run")  # test_cli.py makes a ring; here the line's own modes must fit
    if words[1:2] == ["expand"]:
        (here / "dense.pt").unlink(missing_ok=True)
    done = run(*words[1:], cwd=here, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.code == 0, done.stderr
    assert done.stdout
