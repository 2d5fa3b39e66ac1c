"""Packed sequences of different lengths: ring layers and plain LSTMs beside torch.nn's on the same PackedSequence.

Run: python benchmarks/variable_length.py [--seconds 20] [--threads 2] [--out FILE]

Lengths are uniform between a quarter of the longest and the longest. Bars: LSTMs at least 1.5 times faster in a
training step and 1.2 times in evaluation at every size; GRUs never below 0.95 times torch.nn's speed. Last, one
epoch of fine-tuning on 140 series of 947 to 2,618 steps of 6 channels, within 10 s.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from trcompress.layers import TRGRU, TRLSTM
from trcompress.layers.padded_lstm import use_padded_kernel
from trcompress.network.classifier import dense_classifier
from trcompress.util.files import write_text
from trcompress.util.hardware import this_machine
from trcompress.util.timing import in_turns

OUT = Path(__file__).resolve().parent.parent / "results" / "bench-variable-length.json"
SIZES = {
    "16 x 500 x 6 -> 64": (16, 500, 6, 64, False, "2x3:8x8"),
    "32 x 100 x 256 -> 192 both ways": (32, 100, 256, 192, True, "16x16:16x12"),
    "16 x 50 x 1024 -> 256": (16, 50, 1024, 256, False, "32x32:16x16"),
    "64 x 200 x 40 -> 128 both ways": (64, 200, 40, 128, True, "5x8:16x8"),
}
BARS = {"training": {"lstm": 1.5, "gru": 0.95}, "evaluation": {"lstm": 1.2, "gru": 0.95}}
EPOCH_S, SERIES, SHORTEST, LONGEST, CHANNELS = 10.0, 140, 947, 2618, 6
CPU = torch.device("cpu")
console = Console(width=110, highlight=False)


def packed(batch: int, steps: int, inputs: int) -> PackedSequence:
    """A batch of sequences, the longest of `steps`."""
    lengths = torch.randint(steps // 4, steps + 1, (batch,))
    lengths[0] = steps
    return pack_padded_sequence(torch.randn(steps, batch, inputs), lengths, enforce_sorted=False)


def step(model: nn.Module, sequence: PackedSequence) -> None:
    """Run forward and backward from fresh gradients."""
    model.zero_grad()
    model(sequence)[0].data.sum().backward()


def contenders(kind: str, inputs: int, hidden: int, both: bool, shape: str) -> dict[str, nn.Module]:
    """The layer of torch.nn, first, and those that are held against it."""
    options: dict[str, Any] = {"bidirectional": both}
    if kind == "gru":
        return {
            "nn.GRU": nn.GRU(inputs, hidden, **options),
            "TRGRU": TRGRU(inputs, hidden, shape=shape, ranks=4, **options),
        }
    plain = use_padded_kernel(nn.LSTM(inputs, hidden, **options))
    ring = TRLSTM(inputs, hidden, shape=shape, ranks=4, **options)
    return {"nn.LSTM": nn.LSTM(inputs, hidden, **options), "plain, padded kernel": plain, "TRLSTM": ring}


def measure(seconds: float) -> list[dict[str, Any]]:
    """Times of every size, kind and use."""
    found = []
    for size, (batch, steps, inputs, hidden, both, shape) in SIZES.items():
        sequence = packed(batch, steps, inputs)
        for kind in ("lstm", "gru"):
            models = contenders(kind, inputs, hidden, both, shape)
            calls = {name: lambda model=model, given=sequence: step(model, given) for name, model in models.items()}
            ms = {"training": in_turns(calls, CPU, seconds)}
            for model in models.values():
                model.eval()
            with torch.no_grad():
                calls = {name: lambda model=model, given=sequence: model(given) for name, model in models.items()}
                ms["evaluation"] = in_turns(calls, CPU, seconds)
            found += [{"size": size, "kind": kind, "use": use, "ms": times} for use, times in ms.items()]
    return found


def epoch_seconds() -> float:
    """One epoch over the long series, in batches of 16, by Adam."""
    torch.manual_seed(0)
    network = dense_classifier(CHANNELS, 4, hidden_size=64).module
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (SERIES,))
    series = torch.randn(SERIES, LONGEST, CHANNELS)
    begin = time.perf_counter()
    for chosen in torch.randperm(SERIES).split(16):
        longest = int(lengths[chosen].max())
        scores = network(series[chosen, :longest], lengths[chosen])
        loss = nn.functional.cross_entropy(scores, torch.zeros(len(chosen), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - begin


def show(report: dict[str, Any]) -> None:
    """Print times, speed relative to torch.nn, and the bar."""
    table = Table(title="packed sequences: times and speed relative to torch.nn", title_justify="left")
    for column in ("batch x steps x inputs -> hidden", "use", "layer", "ms", "faster", "bar"):
        table.add_column(column, justify="right" if column in ("ms", "faster", "bar") else "left")
    for one in report["results"]:
        first, bar = next(iter(one["ms"].values())), BARS[one["use"]][one["kind"]]
        for at, (name, ms) in enumerate(one["ms"].items()):
            cells = (
                [f"{first / ms:.2f}", f"{bar:.2f}" + (" MISSED" if first / ms < bar else "")] if at else ["", ""]
            )
            table.add_row(one["size"] if not at else "", one["use"] if not at else "", name, f"{ms:.2f}", *cells)
    console.print(table)
    console.print(
        f"an epoch, {SERIES} series of {SHORTEST} to {LONGEST} steps: {report['epoch_s']:.1f} s (bar {EPOCH_S:.0f})"
    )


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="for each kind, size and use")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    command = shlex.join(["python", "benchmarks/variable_length.py", *sys.argv[1:]])
    about = {"command": command, "machine": this_machine().model_dump(mode="json"), "threads": options.threads}
    report = about | {"results": measure(options.seconds), "epoch_s": epoch_seconds()}
    show(report)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
