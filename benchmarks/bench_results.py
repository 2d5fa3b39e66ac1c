"""Saved benchmarks as results of one shape: what a benchmark's JSON says, in the tables of RESULTS.md.

A benchmark writes what it likes. `command` (or `commands`), `machine`, `seed` (or a `seed` in its rows), `threads`
and `version` are read wherever they are; everything else becomes tables: by the function that `BENCHMARKS` names,
otherwise as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_tables
from bench_tables import Found, Record

from trcompress.reproduce.result import Findings, Result
from trcompress.util.hardware import Hardware

ROW = "benchmark"


@dataclass(frozen=True)
class Benchmark:
    """What RESULTS.md says of one file.

    Args:
        title: what is measured.
        data: on what.
        findings: its JSON -> tables, claims and notes.
        run: the command that makes the file.
    """

    title: str
    data: str
    findings: Callable[[Record], Found]
    run: str


BENCHMARKS = {
    "bench-whole-model": Benchmark(
        "Whole files under one budget: bytes, metric, latency",
        "g2p (pretrained, 2,000 words); HAPT and Flare (trained here, unseen people and outfits)",
        bench_tables.whole_model,
        "python benchmarks/whole_model.py",
    ),
    "bench-calibration": Benchmark(
        "Calibration by the network's own answers, without labels",
        "g2p (pretrained), HAPT, syllables made here",
        bench_tables.as_it_stands,
        "python benchmarks/calibration.py",
    ),
    "bench-decompose": Benchmark(
        "Decompositions side by side",
        "made here; g2p's encoder weight",
        bench_tables.decompose,
        "python benchmarks/decompose.py",
    ),
    "bench-layers": Benchmark(
        "Time and memory of layers at the paper's size",
        "made here",
        bench_tables.layers,
        "python benchmarks/layers.py",
    ),
    "bench-variable-length": Benchmark(
        "Sequences of different lengths",
        "made here",
        bench_tables.variable_length,
        "python benchmarks/variable_length.py",
    ),
    "bench-never-slower": Benchmark(
        "Rings beside dense layers on a grid of sizes",
        "made here",
        bench_tables.never_slower,
        "python benchmarks/never_slower.py",
    ),
    "bench-larger-than-memory": Benchmark(
        "A weight larger than memory",
        "made here",
        bench_tables.larger_than_memory,
        "python benchmarks/larger_than_memory.py",
    ),
    "bench-load": Benchmark(
        "Many layers, rows and clips, large files, long processes",
        "made here",
        bench_tables.load,
        "python benchmarks/load.py",
    ),
    "bench-install": Benchmark(
        "What the base install takes",
        "this checkout, in a new environment",
        bench_tables.as_it_stands,
        "python benchmarks/install.py",
    ),
}
"""The stem of a file in results/ -> what it is; a file that is not here is shown as it stands."""


def read_benchmarks(folder: Path) -> list[tuple[Path, Result]]:
    """Read every `bench-*.json` of a folder, those of `BENCHMARKS` first and in its order."""
    known = [folder / f"{name}.json" for name in BENCHMARKS]
    paths = [path for path in known if path.is_file()]
    paths += [path for path in sorted(folder.glob("bench-*.json")) if path not in known]
    return [(folder, as_result(path.stem, json.loads(path.read_text(encoding="utf-8")))) for path in paths]


def missing(folder: Path) -> list[str]:
    """The commands of benchmarks that left no file."""
    return [one.run for name, one in BENCHMARKS.items() if not (folder / f"{name}.json").is_file()]


def as_result(name: str, record: Record) -> Result:
    """Turn one file into a result like those of `trcompress reproduce`."""
    known = BENCHMARKS.get(name)
    tables, claims, notes = (known.findings if known else bench_tables.as_it_stands)(record)
    if "threads" in record:
        notes.append(f"{record['threads']} threads" + (f", {record['device']}" if "device" in record else ""))
    return Result(
        recipe=name,
        title=known.title if known else name.removeprefix("bench-").replace("-", " "),
        row=ROW,
        quick=False,
        findings=Findings(
            data=known.data if known else "see the command",
            tables=tuple(tables),
            claims=tuple(claims),
            notes=tuple(notes),
        ),
        seeds=tuple(sorted(_seeds(record))),
        command="; ".join(_commands(record, known.run if known else "")),
        version=str(record.get("version", "")),
        machine=Hardware(**record["machine"]),
    )


def _commands(record: Record, usual: str) -> list[str]:
    """The command lines that made a file; a file of parts has the arguments of each."""
    parts = record.get("parts", {})
    if parts and all("arguments" in part for part in parts.values()):
        return [f"{usual} {part['arguments']}" for part in parts.values()]
    return record.get("commands") or [record.get("command") or usual]


def _seeds(value: Any) -> set[int]:
    """Every seed in a record, and in the rows in it."""
    if isinstance(value, Mapping):
        here = {value[key] for key in bench_tables.SEEDS if isinstance(value.get(key), int)}
        return here.union(*map(_seeds, value.values()))
    return set().union(*map(_seeds, value)) if isinstance(value, list) else set()
