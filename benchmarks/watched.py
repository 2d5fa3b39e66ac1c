"""Run a command in a process of its own and watch its memory; keep what a benchmark found beside where it ran."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

RESULTS = Path(__file__).resolve().parent.parent / "results"
console = Console(width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True)
class Watched:
    """What a process took.

    Args:
        output: its standard output.
        seconds: wall clock, interpreter's start included.
        peak_bytes: largest resident memory, mapped pages included (VmHWM).
        mapped_bytes: largest share of it that was pages of files (RssFile).
    """

    output: str
    seconds: float
    peak_bytes: int
    mapped_bytes: int


def watch(command: Sequence[str | Path], every_s: float = 0.02) -> Watched:
    """Run a command and read its memory from the kernel until it ends; its messages go through.

    Raises:
        SystemExit: the command failed, or this is no Linux.
    """
    if platform.system() != "Linux":
        raise SystemExit("peak memory is read from /proc: run this benchmark on Linux")
    begin, peak, mapped = time.perf_counter(), 0, 0
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment) as child:
        while True:
            memory = _memory(child.pid)
            peak, mapped = max(peak, memory.get("VmHWM", 0)), max(mapped, memory.get("RssFile", 0))
            try:
                output, _ = child.communicate(timeout=every_s)
                break
            except subprocess.TimeoutExpired:
                continue
    if child.returncode:
        raise SystemExit(f"exit code {child.returncode}: {' '.join(map(str, command))}")
    return Watched(output, time.perf_counter() - begin, peak, mapped)


def _memory(pid: int) -> dict[str, int]:
    """The kernel's account of a process, in bytes; empty once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}


def save(path: Path, findings: dict[str, Any], seed: int) -> None:
    """Write findings as JSON, with the machine, versions, threads, seed and the command that found them."""
    import torch

    from trcompress.util.hardware import this_machine

    machine = this_machine()
    about = asdict(machine) if not hasattr(machine, "model_dump") else machine.model_dump()
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip()
    report = {"command": command, "machine": about, "threads": torch.get_num_threads(), "seed": seed, **findings}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(f"written: {path}", style="dim", highlight=False)
