"""The whole file: bytes, metric and latency of networks made small by every pass under one budget.

Without training (g2p) and with (HAPT's sensors, Flare's rendered figures, clips of 57,600 values a frame): see
whole_model_g2p.py, whole_model_trained.py and whole_model_clips.py. Settings were fixed without the test parts;
whole_model_choose.py compares them again. Nobody had looked at the seeds of the final run. Latency is CPU time of
one thread.

Run: python benchmarks/whole_model.py                              (all; writes results/bench-whole-model.json)
     python benchmarks/whole_model.py --only hapt,flare --seeds 10 (a part; other figures in the file are kept)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from kept import Kept, kept_figures
from samples import find_sample
from whole_model_clips import run_clips, training_clips, with_fresh_looks
from whole_model_g2p import run_g2p
from whole_model_tasks import TASKS
from whole_model_trained import Row, Trained, run_trained

from trcompress.data import load_data
from trcompress.util.files import write_text
from trcompress.util.hardware import this_machine
from trcompress.version import __version__

ROOT = Path(__file__).resolve().parent.parent
SEEDS = {"g2p": "10,11,12", "hapt": "10,11,12", "flare": "10,11,12", "clips": "10,11,12"}
"""Nobody looked at these while anything was chosen."""
TITLES = {
    "g2p": "g2p, no gradient steps: phoneme error rate, ms for 64 words",
    "hapt": "HAPT, people not trained on: accuracy, ms for 16 windows",
    "flare": "Flare, outfits not trained on: accuracy, ms for 16 clips",
    "clips": "57,600 inputs, looks not trained on: accuracy beside the ring's, ms for 16 clips",
}


def main() -> None:
    """Run what was asked for, keep the figures after every seed, print all of them as one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SEEDS), help="which parts; an empty text only prints")
    parser.add_argument("--seeds", help="instead of those of the final run")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench-whole-model.json")
    parser.add_argument("--work", type=Path, help="folder that keeps trained networks, to go on from")
    parser.add_argument("--networks", type=int, default=0, help="train so many and stop; with --work")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = kept_figures(given.out)
    for name in filter(None, given.only.split(",")):
        run = PARTS[name]()
        if run is None:
            print(f"{name}: its sample is not at hand; left out")
            continue
        for seed in map(int, (given.seeds or SEEDS[name]).split(",")):
            with TemporaryDirectory() as folder:
                kept = Kept((given.work or Path(folder)) / f"{name}-{seed}", given.networks)
                keep(record, name, seed, run(seed, kept), given.out)
    print(table(record))


def keep(record: dict[str, Any], name: str, seed: int, rows: list[Row], out: Path) -> None:
    """Put a seed's rows in the place of earlier ones, and write the file."""
    rows = [row for row in record.get(name, []) if row["seed"] != seed] + rows
    record |= {
        "command": "python benchmarks/whole_model.py",
        "version": __version__,
        "machine": this_machine().model_dump(mode="json"),
        name: sorted(rows, key=lambda row: row["seed"]),
    }
    write_text(out, json.dumps(record, indent=1) + "\n")


def table(record: dict[str, Any]) -> str:
    """All parts as one table for a page: medians over the seeds, differences with their range."""
    lines = ["| | bytes | ratio of the file | metric | beside dense | ms |", "|---|---:|---:|---:|---:|---:|"]
    for name in SEEDS:
        rows = record.get(name, [])
        seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
        if rows:
            lines.append(f"| **{TITLES[name]}**, seeds {seeds} | | | | | |")
        for what in dict.fromkeys(row["what"] for row in rows):
            lines.append(_line([row for row in rows if row["what"] == what]))
    return "\n".join(lines)


def _line(rows: list[Row]) -> str:
    size, score, off, ms = (median(row[key] for row in rows) for key in ("bytes", "metric", "change", "ms"))
    ratio = rows[0]["dense_bytes"] / size
    worst, best = (end(row["change"] for row in rows) for end in (min, max))
    beside = f"{off:+.2f} [{worst:+.2f}, {best:+.2f}]" if best or worst else ""
    return f"| {rows[0]['what']} | {size:,.0f} | {ratio:,.1f}x | {score:.2f} % | {beside} | {ms:.2f} |"


# ---- the parts


Run = Callable[[int, Kept], list[Row]]


def g2p() -> Run | None:
    """Words, where they are at hand."""
    folder = find_sample("g2p")
    return (lambda seed, _: run_g2p(folder, seed)) if folder else None


def trained(task: Trained) -> Run | None:
    """A data set to train on, where it is at hand; all that is not tested on is trained on."""
    sample = find_sample(task.base.sample)
    if sample is None:
        return None
    return partial(run_trained, task, load_data(sample, validation_fraction=0.0, **task.base.options))


PARTS: dict[str, Callable[[], Run | None]] = {
    "g2p": g2p,
    **{name: partial(trained, task) for name, task in TASKS.items()},
    "clips": lambda: partial(run_clips, with_fresh_looks(training_clips())),
}


if __name__ == "__main__":
    main()
