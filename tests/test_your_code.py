"""docs/your-code.md as a reader follows it: every file saved under its name, every line run."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command import run

from trcompress.cli.main import cli

PAGE = (Path(__file__).parent.parent / "docs" / "your-code.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 5, 6)).astype(np.float32), rng.integers(0, 4, 64)
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for language, text in BLOCKS:
        if language == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
            Path(name[1]).write_text(text)
    import my_network

    torch.manual_seed(0)
    torch.save(my_network.Net().state_dict(), "model.pt")
    yield tmp_path
    for name in ("my_network", "my_batches", "my_data"):
        sys.modules.pop(name, None)


def test_every_line_runs_and_examples_are_short(folder):
    lines = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    assert len(lines) == 3
    for line in lines:
        done = run(*shlex.split(line)[1:])
        assert done.code == 0, f"{line}\n{done.stderr}"
    files = [text for language, text in BLOCKS if language == "python" and text.startswith("# my_")]
    assert len(files) == 3
    assert max(len(text.splitlines()) for text in files) <= 16


def test_the_loop_runs(folder):
    exec(compile(next(text for _, text in BLOCKS if "DistillLoss(" in text), "docs/your-code.md", "exec"), {})


@pytest.mark.parametrize("verb", ["plan", "decompose", "compress", "evaluate", "finetune", "export"])
def test_help_names_the_contract(verb):
    text = CliRunner().invoke(cli, [verb, "--help"]).output
    assert "package.module:factory of your own network; runs your code" in " ".join(text.split())
    assert "docs/your-code.md" in text
