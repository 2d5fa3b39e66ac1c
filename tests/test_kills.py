"""A few kills of every command that writes; `tests/kills/run.py` makes hundreds."""

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
    words = [sys.executable, run, "--kills", KILLS, "--seed", 1, "--folder", tmp_path / "run"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    counts = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:6].strip().isdigit()]
    assert ["0", "faults"] in counts
    assert sum(int(count) for count, name in counts if "ended" in name or "done" in name) == KILLS
