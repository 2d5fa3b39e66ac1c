"""What tests and benchmarks may lean on: not on each other, and not on the clock."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
BENCHMARKS = TESTS.parent / "benchmarks"


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
        assert f'/ "{theirs.name}"' not in path.read_text(encoding="utf-8") or path == Path(__file__)


def test_no_test_asks_the_clock():
    """A machine that is busy must not fail a test; work is counted instead."""
    clocks = {"perf_counter", "process_time", "time", "perf_counter_ns"}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
            assert not (asked and node.attr in clocks), f"{path.name}:{node.lineno} reads the clock"
