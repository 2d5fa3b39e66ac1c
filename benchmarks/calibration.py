"""Calibration on real networks: what choosing cores by the network's own answers saves, without a label.

g2p: a pretrained GRU encoder and decoder that pronounce words. The real command, `decompose --target-ratio R
--calibrate`, sees 1,000 of 2,000 words drawn by each seed; the phoneme error rate is of the others.

stack: a three-layer LSTM(6 -> 128) trained on raw sensor steps (HAPT): one budget with and without data, beside
equal ranks and a first layer that stays dense. windows: LSTM(96 -> 128) at 40x beside the truncated SVD.

syllables: a bidirectional LSTM with an embedding, packed input and attention, as a user would write it:
`compress_(model, target_ratio=10, calibrate=loader, refine=300)`, agreement with the dense network on words not
seen.

Every call prints its time, that of the processor, and its peak memory above what was taken before. Nothing is
chosen by test data: settings were chosen on other splits, tasks and draws (seeds 0, 1, 2 and 100).

Run: python benchmarks/calibration.py                      (everything; writes results/bench-calibration.json)
     python benchmarks/calibration.py --only g2p --draws 0 (a part; the other figures in the file are kept)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from calibration_g2p import run_g2p
from calibration_sensors import run_stack, run_windows
from calibration_syllables import run_syllables
from kept import kept_figures
from rich.console import Console
from rich.table import Table

from trcompress.util.files import write_text
from trcompress.util.hardware import this_machine
from trcompress.version import __version__

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"g2p": run_g2p, "stack": run_stack, "windows": run_windows, "syllables": run_syllables}

console = Console(highlight=False, width=140)


def main() -> None:
    """Run what is asked for, print it, and keep it."""
    given = read_arguments()
    torch.set_num_threads(given.threads)
    record = kept_figures(given.out)
    line = f"python benchmarks/calibration.py {' '.join(sys.argv[1:])}".strip()
    record |= {
        "commands": sorted({line, *record.get("commands", [])}),
        "version": __version__,
        "machine": this_machine().model_dump(),
        "threads": given.threads,
    }
    for name in PARTS if given.only is None else [given.only]:
        rows = PARTS[name](given)
        if rows is None:
            console.print(f"{name}: its sample is not at hand")
            continue
        record[name] = rows
        console.print(table_of(name, rows))
        given.out.parent.mkdir(exist_ok=True)
        write_text(given.out, json.dumps(record, indent=1, sort_keys=True) + "\n")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), help="one of the networks")
    parser.add_argument("--ratios", default="6,12", help="of g2p")
    parser.add_argument("--draws", default="10,11,12", help="seeds of the calibration draw")
    parser.add_argument("--refine", type=int, default=300, help="gradient steps of the refined rows, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench-calibration.json")
    return parser.parse_args()


def table_of(name: str, rows: list[dict[str, Any]]) -> Table:
    """Figures as they are, one row a call."""
    table = Table(title=name, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(spelled(row.get(column)) for column in columns))
    return table


def spelled(value: Any) -> str:
    """A cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
