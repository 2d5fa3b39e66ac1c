"""How long bodies and files may be, and what tests and benchmarks may lean on: not each other, not the clock."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
BENCHMARKS = TESTS.parent / "benchmarks"
LIBRARY, CLI = TESTS.parent / "trcompress", TESTS.parent / "cli"
BODY_LINES, FILE_LINES = 40, 300


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    ("ours", "theirs"), [(TESTS, BENCHMARKS), (BENCHMARKS, TESTS)], ids=["tests", "benchmarks"]
)
def test_tests_and_benchmarks_stand_alone(ours, theirs):
    own, other = ({path.stem for path in folder.glob("*.py")} for folder in (ours, theirs))
    for path in ours.glob("*.py"):
        borrowed = {name.partition(".")[0] for name in imports(path)} & (other - own)
        assert not borrowed, f"{path.name} imports {borrowed} of {theirs.name}/"
        runs_a_script = (
            path.name == "test_results_page.py"
        )  # by its name, as a user would; it imports nothing of it
        assert runs_a_script or f'/ "{theirs.name}"' not in path.read_text("utf-8") or path == Path(__file__)


def test_no_test_asks_the_clock():
    """A machine that is busy must not fail a test; work is counted instead."""
    clocks = {"perf_counter", "process_time", "time", "perf_counter_ns"}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
            assert not (asked and node.attr in clocks), f"{path.name}:{node.lineno} reads the clock"


def body_lines(function):
    """Lines of a function below its docstring."""
    body = function.body[ast.get_docstring(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("folder", [LIBRARY, CLI, TESTS, BENCHMARKS], ids=lambda folder: folder.name)
def test_bodies_are_short(folder):
    long = [
        f"{path.relative_to(folder.parent)}:{node.lineno} {node.name} has {body_lines(node)}"
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > BODY_LINES
    ]
    assert not long, f"bodies of more than {BODY_LINES} lines: {'; '.join(long)}"


@pytest.mark.parametrize("folder", [LIBRARY, CLI, BENCHMARKS], ids=lambda folder: folder.name)
def test_files_are_short(folder):
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py")}
    long = [f"{path.relative_to(folder.parent)} has {count}" for path, count in lines.items() if count > FILE_LINES]
    assert not long, f"files of more than {FILE_LINES} lines: {'; '.join(long)}"
