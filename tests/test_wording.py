"""Two voices: the library speaks of arguments, the command line of options."""

import ast
import re
from pathlib import Path

import pytest

from trcompress.cli.main import VERBS
from trcompress.cli.wording import as_options, options_of

LIBRARY = sorted((Path(__file__).parent.parent / "trcompress").rglob("*.py"))
OPTION = re.compile(r"(^|[^-])--[a-z]|(^|\s)-o\b")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(path.parents[1])))
def test_no_string_of_the_library_speaks_of_an_option(path: Path) -> None:
    """Docstrings too: what is called from Python is explained in Python's terms."""
    strings = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    found = [one.value for one in strings if isinstance(one.value, str) and OPTION.search(one.value)]
    assert not found


@pytest.mark.parametrize(
    ("verb", "text", "shown"),
    [
        ("decompose", "`max_error` is relative: got 2", "--max-error is relative: got 2"),
        ("decompose", "the output exists; or allow `overwrite=True`", "the output exists; or allow --overwrite"),
        ("evaluate", "give `model=package.module:factory`", "give --model package.module:factory"),
        ("evaluate", "check `data_options=steps=8`", "check --data-option steps=8"),
        ("plan", "`shape` is for decompose", "`shape` is for decompose"),
        ("recipe", "`set=train.epochs=3`", "--set train.epochs=3"),
        ("", "`overwrite` stays", "`overwrite` stays"),
        ("data", "`trcompress data extract` is a line", "`trcompress data extract` is a line"),
    ],
)
def test_arguments_become_options_of_the_verb_that_runs(verb: str, text: str, shown: str) -> None:
    assert as_options(text, verb) == shown


@pytest.mark.parametrize("verb", VERBS)
def test_the_words_are_the_verbs_own_options(verb: str) -> None:
    assert all(option == "--" + name.replace("_", "-") for name, option in options_of(verb).items())
