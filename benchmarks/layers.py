"""Time and memory of ring layers beside torch.nn, TedNet and tensorly-torch, on the paper's UCF11 shape.

    python benchmarks/layers.py [--batch 16] [--steps 6] [--device cpu] [--out layers.json]

Prints medians measured in turn in one run, their ratios, and how near the ring is to its limit: reading the input
once and the recurrent kernel alone. Peak memory is of a child process per contender that trains one step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import CONTENDERS, HIDDEN, INPUTS, install
from timing import saved_bytes, side_by_side
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

OURS, DENSE, TEDNET = "TRLSTM", "torch.nn.LSTM", "TedNet TRLSTM"


class Counter(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one and run it."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


def step(model: nn.Module, x: torch.Tensor) -> None:
    """Run forward and backward from fresh gradients."""
    model.zero_grad()
    model(x)[0].sum().backward()


def forward(model: nn.Module, x: torch.Tensor) -> Any:
    """Run forward alone, as in serving."""
    with torch.no_grad():
        return model(x)


def dispatched(model: nn.Module, x: torch.Tensor) -> int:
    """Count the operations of a training step after an update."""
    step(model, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0)
    model.zero_grad()
    with Counter() as counter:
        model(x)[0].sum().backward()
    return counter.calls


def times(models: dict[str, nn.Module], x: torch.Tensor, seconds: float) -> dict[str, dict[str, float]]:
    """Medians of forward and of forward + backward, and of what no ring layer can avoid."""
    kernel = nn.LSTM(64, HIDDEN, device=x.device)
    z = torch.randn(*x.shape[:2], 64, device=x.device)
    limits: dict[str, Callable[[], Any]] = {"read x once": x.sum, "kernel alone": lambda: forward(kernel.eval(), z)}
    calls = {name: lambda model=model: forward(model.eval(), x) for name, model in models.items()}
    found = {"forward": side_by_side({**limits, **calls}, x.device, seconds)}
    limits["kernel alone"] = lambda: step(kernel.train(), z)
    calls = {name: lambda model=model: step(model.train(), x) for name, model in models.items()}
    found["forward + backward"] = side_by_side({**limits, **calls}, x.device, seconds)
    return found


def child(name: str, batch: int, steps: int) -> None:
    """Train one step and print the peak resident memory, before building the model and at the end."""
    install()
    x = torch.randn(steps, batch, INPUTS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model = CONTENDERS[name]()
    step(model, x)
    print(json.dumps([before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


def peaks(batch: int, steps: int) -> dict[str, dict[str, int]]:
    """Peak resident bytes of a training step, each in a process of its own."""
    found = {}
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--child", name, "--batch", str(batch), "--steps", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, peak = json.loads(done.stdout.splitlines()[-1])
        found[name] = {"peak_bytes": peak, "above_start_bytes": peak - before}
    return found


def show(report: dict[str, Any]) -> None:
    """Print the tables."""
    for what, medians in report["median_ms"].items():
        print(f"\n{what}, batch {report['batch']} x {report['steps']} frames, {report['threads']} threads")
        for name, value in medians.items():
            faster = value / medians[OURS]
            print(f"  {name:24} {value:10.3f} ms   {faster:8.1f} x TRLSTM's time")
        print(f"  TRLSTM is {medians[DENSE] / medians[OURS]:.1f}x faster than torch.nn.LSTM,", end=" ")
        print(f"{medians[TEDNET] / medians[OURS]:.1f}x faster than TedNet")
        floor = medians["read x once"] + medians["kernel alone"]
        print(f"  limit (read x once + kernel) {floor:.3f} ms: TRLSTM takes {medians[OURS] / floor:.2f} times that")
    x_bytes = report["input_bytes"]
    print(f"\nmemory; the input is {x_bytes / 1e6:.1f} MB")
    for name, peak in report["memory"].items():
        saved = report["saved_bytes"][name]
        print(
            f"  {name:24} autograd keeps {saved / 1e6:9.3f} MB ({100 * saved / x_bytes:6.1f} % of x),"
            f" a step's peak {peak['peak_bytes'] / 1e6:8.0f} MB ({peak['above_start_bytes'] / 1e6:.0f} above start)"
        )
    print(f"\noperations dispatched in a training step: {report['operations']}; evaluated as {report['chosen']}")


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each of the two tables")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.batch, options.steps)
        return
    install()
    torch.manual_seed(0)
    x = torch.randn(options.steps, options.batch, INPUTS, device=options.device)
    models = {name: build().to(options.device) for name, build in CONTENDERS.items()}
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "steps": options.steps,
        "median_ms": times(models, x, options.seconds),
        "input_bytes": x.nbytes,
        "saved_bytes": {
            name: saved_bytes(lambda model=model: model(x), [x, *model.parameters()])
            for name, model in models.items()
        },
        "operations": {name: dispatched(models[name], x) for name in (OURS, DENSE, TEDNET)},
        "chosen": models[OURS].strategy.chosen,
    }
    report["memory"] = peaks(options.batch, options.steps)
    show(report)
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
