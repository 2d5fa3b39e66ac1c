"""Shell completion as the documentation sets it up."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trcompress.cli.verbs import VERBS

COMMAND = Path(sys.executable).parent / "trcompress"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "index.md"

pytestmark = pytest.mark.skipif(not COMMAND.is_file(), reason="needs the installed command")


def environment(**more):
    return os.environ | {"PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"} | more


@pytest.mark.parametrize(
    ("shell", "sign"),
    [("bash", "complete -o nosort"), ("zsh", "#compdef trcompress"), ("fish", "complete --no-files")],
)
def test_every_shell_gets_a_script(shell, sign):
    found = subprocess.run(
        [COMMAND], env=environment(_TRCOMPRESS_COMPLETE=f"{shell}_source"), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert sign in found.stdout


def test_the_documented_line_is_the_one_that_is_tested():
    lines = re.findall(r"_TRCOMPRESS_COMPLETE=(\w+)_source trcompress", PAGE.read_text(encoding="utf-8"))
    assert lines == ["bash", "zsh", "fish"]


def completed(*words):
    """What bash offers for the last of some words, once the documented line was evaluated."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    script = """
eval "$(_TRCOMPRESS_COMPLETE=bash_source trcompress)"
COMP_WORDS=(trcompress "$@")
COMP_CWORD=$#
_trcompress_completion trcompress
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run([bash, "-c", script, "bash", *words], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash_completes_verbs():
    assert set(completed("")) == set(VERBS)
    assert completed("dec") == ["decompose"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("decompose", "model.pt", "--target-r"), {"--target-ratio"}),
        (("report", "--format", ""), {"human", "json", "markdown", "html", "csv"}),
        (("decompose", "model.pt", "--init", "tr-"), {"tr-als", "tr-svd"}),
        (("data", ""), {"extract", "make-clips"}),
        (("recipe", "c"), {"copy"}),
    ],
)
def test_bash_completes_options_and_choices(words, offered):
    assert offered <= set(completed(*words))
    assert all(one.startswith(words[-1]) for one in completed(*words))
