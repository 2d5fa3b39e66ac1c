"""Time and memory of ring layers beside torch.nn, TedNet and tensorly-torch, on the paper's UCF11 shape.

Run: python benchmarks/layers.py [--batch 16] [--steps 6] [--threads 2] [--device cpu] [--out FILE]

Prints medians of one run, each contender hot in its own turn; how near the ring is to its limit, its own products
with x at their best layout and PyTorch's kernel; and what each piece of speed machinery buys over the plain way.
Peak memory is of a fresh process per contender that trains one step.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import CONTENDERS, HIDDEN, INPUTS, install
from plain_ring import PlainRing
from rich.console import Console
from rich.table import Table
from torch import nn

from trcompress.util.files import write_text
from trcompress.util.hardware import this_machine
from trcompress.util.memory import peak_extra_bytes, saved_bytes, status_bytes
from trcompress.util.timing import in_turns

OUT = Path(__file__).resolve().parent.parent / "results" / "bench-layers.json"
OURS, DENSE, TEDNET = "TRLSTM", "torch.nn.LSTM", "TedNet TRLSTM"
PRODUCTS, KERNEL, PLAIN = "products with x", "kernel alone", "plain layer"
SUFFIX, COLUMNS, WIDTH = 7200, 32, 64  # of the ring's form: x (N * 8, 7200) @ S, then K = 50 in 64 columns
LIMITS = {"forward": 1.6, "forward + backward": 2.2}
MOST_OF_PLAIN = 1.15
GOALS = {"forward": {DENSE: 42, TEDNET: 75}, "forward + backward": {DENSE: 60, TEDNET: 115}}
console = Console(width=120, highlight=False)


def step(model: nn.Module, x: torch.Tensor) -> None:
    """Run forward and backward from fresh gradients."""
    model.zero_grad()
    model(x)[0].sum().backward()


def forward(model: nn.Module, x: torch.Tensor) -> Any:
    """Run forward alone, as in serving."""
    with torch.no_grad():
        return model(x)


def times(models: dict[str, nn.Module], x: torch.Tensor, seconds: float) -> dict[str, dict[str, float]]:
    """Medians of forward and of forward + backward, and of what no ring layer can avoid."""
    kernel = nn.LSTM(WIDTH, HIDDEN, device=x.device)
    z = torch.randn(*x.shape[:2], WIDTH, device=x.device, requires_grad=True)
    rows, S = x.view(-1, SUFFIX), torch.randn(SUFFIX, COLUMNS, device=x.device)
    grad = torch.randn(rows.shape[0], COLUMNS, device=x.device)
    limits: dict[str, Callable[[], Any]] = {PRODUCTS: lambda: rows @ S, KERNEL: lambda: forward(kernel, z)}
    models = models | {PLAIN: PlainRing(models[OURS])}
    calls = {name: lambda model=model: forward(model, x) for name, model in models.items()}
    for model in (kernel, *models.values()):
        model.eval()
    found = {"forward": in_turns(limits | calls, x.device, seconds)}
    for model in (kernel, *models.values()):
        model.train()
    limits = {PRODUCTS: lambda: (rows @ S, rows.t() @ grad), KERNEL: lambda: step(kernel, z)}
    calls = {name: lambda model=model: step(model, x) for name, model in models.items()}
    found["forward + backward"] = in_turns(limits | calls, x.device, seconds)
    return found


def buys(layer: Any, x: torch.Tensor, seconds: float) -> dict[str, dict[str, float]]:
    """What each piece of speed machinery saves: milliseconds without it and with it."""
    layer.eval()
    layer.strategy = "auto"
    forward(layer, x[:1, :1])
    kept = {
        "without": lambda: (layer.weight_ih_l0.forget(), forward(layer, x[:1, :1])),
        "with": lambda: forward(layer, x[:1, :1]),
    }
    found = {"matrices kept without gradients, one step of one sequence": in_turns(kept, x.device, seconds)}
    layer.train()
    merged = copy.deepcopy(layer)
    merged.strategy = "merged"
    cut = {"without": lambda: step(merged, x), "with": lambda: step(layer, x)}
    found["the cut of the input cores, training step"] = in_turns(cut, x.device, seconds)
    return found


def child(name: str, batch: int, steps: int) -> None:
    """Train one step in this fresh process and print what it took: beyond the input, and all in all."""
    install()
    x = torch.randn(steps, batch, INPUTS)
    held: list[nn.Module] = []

    def build_and_step() -> None:
        held.append(CONTENDERS[name]())
        step(held[0], x)

    found = {"model_and_step": peak_extra_bytes(build_and_step, x.device), "process": status_bytes("VmHWM")}
    held[0].zero_grad()
    print(json.dumps(found | {"step": peak_extra_bytes(lambda: step(held[0], x), x.device)}))


def peaks(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Peak resident bytes of a training step, each in a process of its own."""
    found = {}
    for name in CONTENDERS:
        sizes = ["--batch", str(options.batch), "--steps", str(options.steps)]
        command = [sys.executable, __file__, "--child", name, *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def show_times(report: dict[str, Any]) -> None:
    """Print the medians, the ratios beside the goals, and the distance from the limit."""
    for what, medians in report["median_ms"].items():
        table = Table(
            title=f"{what}, batch {report['batch']} x {report['steps']} frames, {report['threads']} threads",
            title_justify="left",
        )
        for column in ("", "ms", "times TRLSTM's", "goal"):
            table.add_column(column, justify="left" if not column else "right")
        for name, value in medians.items():
            goal = GOALS[what].get(name)
            table.add_row(name, f"{value:,.3f}", f"{value / medians[OURS]:,.2f}", f">= {goal}" if goal else "")
        console.print(table)
        floor = medians[PRODUCTS] + medians[KERNEL]
        console.print(
            f"limit = {PRODUCTS} + {KERNEL} = {floor:.3f} ms; TRLSTM takes {medians[OURS] / floor:.2f} times that "
            f"(at most {LIMITS[what]}), {medians[OURS] / medians[PLAIN]:.2f} times the plain layer "
            f"(at most {MOST_OF_PLAIN})\n"
        )


def show_memory(report: dict[str, Any]) -> None:
    """Print what autograd keeps and what a step takes at its peak."""
    x_bytes = report["input_bytes"]
    table = Table(title=f"memory of a training step; the input is {x_bytes / 1e6:.1f} MB", title_justify="left")
    for column in ("", "autograd keeps", "of x", "a step adds", "model + step", "of dense", "process", "of dense"):
        table.add_column(column, justify="left" if not column else "right")
    dense = report["memory"][DENSE]
    for name, peak in report["memory"].items():
        saved = report["saved_bytes"][name]
        cells = [f"{saved / 1e6:,.1f} MB", f"{saved / x_bytes:.1%}", f"{peak['step'] / 1e6:,.1f} MB"]
        for what in ("model_and_step", "process"):
            cells += [f"{peak[what] / 1e6:,.1f} MB", f"{peak[what] / dense[what]:.3f}"]
        table.add_row(name, *cells)
    kernel = report["saved_bytes"][KERNEL]
    table.add_row(KERNEL, f"{kernel / 1e6:,.1f} MB", f"{kernel / x_bytes:.1%}")
    console.print(table)
    console.print("kept beside the input and the parameters")
    console.print(f"evaluated as {report['chosen']}")


def show_buys(report: dict[str, Any]) -> None:
    """Print what each piece of speed machinery saves over the plain way."""
    for what, ms in report["buys"].items():
        console.print(f"{what}: {ms['without']:.2f} -> {ms['with']:.2f} ms, {ms['without'] / ms['with']:.2f} times")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything in this process, and one child per contender for peak memory."""
    x = torch.randn(options.steps, options.batch, INPUTS, device=options.device)
    models = {name: build().to(options.device) for name, build in CONTENDERS.items()}
    kernel = nn.LSTM(WIDTH, HIDDEN, device=x.device)
    z = torch.randn(*x.shape[:2], WIDTH, device=x.device, requires_grad=True)
    found = {"median_ms": times(models, x, options.seconds), "chosen": models[OURS].strategy.chosen}
    found["buys"] = buys(models[OURS], x, options.seconds / 4)
    found["saved_bytes"] = {
        name: saved_bytes(lambda model=model: model(x), [x, *model.parameters()]) for name, model in models.items()
    } | {KERNEL: saved_bytes(lambda: kernel(z), [z, *kernel.parameters()])}
    return found | {"input_bytes": x.nbytes, "memory": peaks(options) if x.device.type == "cpu" else {}}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=40.0, help="for each of the two tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.batch, options.steps)
        return
    install()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    given = {name: getattr(options, name) for name in ("batch", "steps", "threads", "device", "seed")}
    command = shlex.join(["python", "benchmarks/layers.py", *sys.argv[1:]])
    about = {"command": command, "machine": this_machine().model_dump(mode="json")}
    report = about | given | measure(options)
    show_times(report)
    show_buys(report)
    if report["memory"]:
        show_memory(report)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
