"""RESULTS.md: generated from the saved files, in one shape, with what is missing said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
MACHINE = json.loads((ROOT / "results" / "bench-layers.json").read_text())["machine"]

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the checkout")


def results(*words):
    # a script finds the modules beside it, which a safe path forbids
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    command = [sys.executable, BENCHMARKS / "results.py", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_page_is_what_the_saved_files_say():
    ran = results("--check")
    assert ran.returncode == 0, ran.stderr


def test_a_changed_figure_makes_the_check_fail(tmp_path):
    record = json.loads((ROOT / "results" / "bench-larger-than-memory.json").read_text()) | {"seconds": 1.5}
    (tmp_path / "bench-larger-than-memory.json").write_text(json.dumps(record))
    page = tmp_path / "RESULTS.md"
    assert results("--results", tmp_path, "--out", page).returncode == 0
    assert "4.1 GB decomposed in 2 s" in page.read_text()
    (tmp_path / "bench-larger-than-memory.json").write_text(json.dumps(record | {"seconds": 700.0}))
    ran = results("--results", tmp_path, "--out", page, "--check")
    assert ran.returncode == 1
    assert "run `python benchmarks/results.py`" in ran.stderr


def test_benchmarks_that_left_no_file_are_named(tmp_path):
    page = tmp_path / "RESULTS.md"
    results("--results", tmp_path, "--out", page)
    assert "Not run here: `python benchmarks/calibration.py`." in page.read_text()


def test_rows_that_differ_in_their_seed_become_one(tmp_path):
    rows = [
        {"ratio": ratio, "draw": draw, "way": way, "PER": 10.0 * ratio + draw, "bytes": 100 + draw}
        for ratio in (6, 12)
        for way in ("SVD", "calibrated")
        for draw in (0, 1, 2)
    ]
    rows.append({"ratio": 6, "draw": "median", "way": "SVD", "PER": 0.0, "bytes": 0})
    record = {"commands": ["a --only b", "a"], "machine": MACHINE, "version": "9", "part": rows, "alone": 3}
    (tmp_path / "bench-anything.json").write_text(json.dumps(record))
    results("--results", tmp_path, "--out", tmp_path / "RESULTS.md")
    _, _, section = (tmp_path / "RESULTS.md").read_text().partition("## bench-anything\n")
    lines = section.splitlines()
    assert "- command: `a --only b; a`" in lines
    assert "- seeds 0, 1, 2; trcompress 9" in lines
    start = lines.index("**part, median [least, greatest] of 3 seeds**")
    assert lines[start + 2] == "| ratio | way | PER | bytes |"
    assert lines[start + 4 : start + 9] == [
        "| 6 | SVD | 61 [60, 62] | 101 [100, 102] |",
        "| 6 | calibrated | 61 [60, 62] | 101 [100, 102] |",
        "| 12 | SVD | 121 [120, 122] | 101 [100, 102] |",
        "| 12 | calibrated | 121 [120, 122] | 101 [100, 102] |",
        "",
    ]
    assert "| alone | 3 |" in lines


def test_every_saved_benchmark_has_a_line_at_the_top_of_the_page():
    head, _, rest = (ROOT / "RESULTS.md").read_text().partition("## Contents")
    for path in (ROOT / "results").glob("bench-*.json"):
        assert f"(#{path.stem})" in head, path.stem
        assert f"## {path.stem}\n" in rest


def test_rehearsals_are_told_apart_and_say_nothing_at_the_top():
    head, _, rest = (ROOT / "RESULTS.md").read_text().partition("## Contents")
    rehearsed = [path.parent.name.removesuffix("-quick") for path in (ROOT / "results").glob("*-quick/result.json")]
    for name in rehearsed:
        assert f"(#{name})" not in head
        row = next(line for line in rest.splitlines() if line.startswith(f"| [{name}]("))
        assert "| rehearsal |" in row
