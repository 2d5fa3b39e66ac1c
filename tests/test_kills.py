"""A few kills of every command that writes; `tests/kills/run.py` makes hundreds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 12


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are struck in forks")
def test_kills_lose_nothing(tmp_path):
    run = Path(__file__).parent / "kills" / "run.py"
    words = [sys.executable, run, "--kills", KILLS, "--seed", 1, "--counts", tmp_path / "counts.json"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts.pop("faults") == []
    assert sum(count for name, count in counts.items() if "ended" in name or "done" in name) == KILLS
