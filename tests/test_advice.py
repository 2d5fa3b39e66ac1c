"""Every way out that a message names exists: verbs of the command line, options, functions of the package."""

import ast
import re
from pathlib import Path

import click
import pytest

import trcompress
from trcompress.cli.main import cli
from trcompress.cli.verbs import VERBS
from trcompress.cli.wording import options_of

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "trcompress").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
PROSE = {"artifact", "artifacts", "header", "can", "is", "does", "has", "takes", "checkpoint"}
VERB = re.compile(r"(?<![\w./-])trcompress ([a-z][a-z-]*)")
FUNCTION = re.compile(r"(?<![\w./-])trcompress\.([a-z_]+)\(")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*[a-z0-9])")
CLICKS_OWN = {"--help", "--version"}


def messages(path: Path) -> list[str]:
    """Strings of a file that are no docstring; what an f-string fills in is left out."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            found.append(node.value)
    return found


ALL = {path: messages(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_verb_and_function_that_a_message_names_exists(path: Path) -> None:
    verbs = {verb for text in ALL[path] for verb in VERB.findall(text)} - PROSE
    assert verbs <= set(VERBS)
    functions = {name for text in ALL[path] for name in FUNCTION.findall(text)}
    assert functions <= set(dir(trcompress))


def test_every_option_that_the_command_line_names_exists() -> None:
    known = {option for verb in VERBS for option in options_of(verb).values()} | CLICKS_OWN
    own = [*cli.params, *cli.get_command(click.Context(cli), "doctor").params]  # each verb has those of the voice
    known |= {option for one in own for option in one.opts}
    named = {
        option
        for path, texts in ALL.items()
        if path.is_relative_to(ROOT / "cli")
        for text in texts
        for option in OPTION.findall(text)
    }
    assert len(named) > 50
    assert named - known <= {"--nproc-per-node"}, "options of torchrun apart"


def test_the_scan_sees_what_it_is_for() -> None:
    assert VERB.findall("use trcompress report {}") == ["report"]
    assert FUNCTION.findall("or trcompress.load_(path)") == ["load_"]
    assert any(VERB.search(text) for texts in ALL.values() for text in texts)
