"""Ring layers are never slower than dense ones: a grid of sizes, batches and ratios, eval and training.

Run: python benchmarks/never_slower.py [--every 7] [--threads 2] [--device cpu] [--out FILE]
In pieces: --part 1/6, then --part 2/6, ...; the points of all parts are gathered in the same file.

For every point: operations (multiply-adds on the input side, in training with the merging of cores) and times of
torch.nn and of the ring layer, measured in turn; what the promise allows; and the worst points at the end.

    eval        at most 1.05 times dense, or 0.1 ms more
    training    at most 1.10 times dense, or 0.4 ms more, where the cheapest contraction needs no more operations
                than dense; else in proportion to those operations
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from trcompress.layers import TRGRU, TRLSTM
from trcompress.layers.evaluation.cost import Use, dense_estimate, estimates
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Rule
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.files import write_text
from trcompress.util.hardware import this_machine
from trcompress.util.timing import in_turns

OUT = Path(__file__).resolve().parent.parent / "results" / "bench-never-slower.json"
SHOWN = 12
console = Console(width=220, highlight=False)

MODES = {
    32: (4, 8),
    40: (5, 8),
    256: (16, 16),
    2048: (64, 32),
    57600: (4, 2, 5, 8, 6, 5, 3, 2),
}
INPUTS, HIDDEN, BATCHES, STEPS = (40, 256, 2048, 57600), (32, 256, 2048), (1, 16, 256), (1, 10, 100)
RATIOS = (2, 10, 100, 1000, 10000)
KINDS = {"lstm": (TRLSTM, nn.LSTM), "gru": (TRGRU, nn.GRU)}
EVAL, TRAIN, SLACK_MS = 1.05, 1.10, {"eval": 0.1, "train": 0.4}
MOST_BYTES, MOST_MACS, MOST_SERIAL, MOST_MERGING = 2 * 10**9, 5 * 10**10, 2 * 10**8, 10**11


@dataclass(frozen=True)
class Point:
    """One layer and one size of input."""

    kind: str
    plan: WeightPlan
    batch: int
    steps: int

    @property
    def name(self) -> str:
        """What identifies it in the tables."""
        matrix, ring = self.plan.matrix, self.plan.structure
        ranks = sorted(set(ring.ranks))
        ratio = self.plan.compression_ratio
        sizes = f"{matrix.columns:6}->{matrix.gate_rows:4} B{self.batch:<3} T{self.steps:<3}"
        return f"{self.kind:4} {sizes} {ratio:8.0f}x r{ranks}"

    def use(self, training: bool) -> Use:
        """The case as the cost model sees it."""
        return Use(self.batch * self.steps, training, repacks=self.kind == "lstm")


def ring_of(kind: str, inputs: int, hidden: int, ratio: int) -> WeightPlan | None:
    """The ring of equal ranks whose ratio comes nearest from above, if there is one."""
    matrix = Matrix.input_to_hidden("weight_ih_l0", kind, inputs, hidden)
    best = None
    for rank in range(1, 200):
        plan = Rule(MODES[inputs], MODES[hidden], (rank,)).resolve(matrix)
        if plan.compression_ratio < ratio:
            break
        best = plan
    return best if best is not None and best.compression_ratio < 4 * ratio else None


def points(every: int) -> Iterator[Point]:
    """The grid, thinned to one in `every`, and the paper's CNN setting in full."""
    count = 0
    for kind, inputs, hidden, ratio in product(KINDS, INPUTS, HIDDEN, RATIOS):
        plan = ring_of(kind, inputs, hidden, ratio)
        for batch, steps in product(BATCHES, STEPS):
            if plan is None or too_large(plan, batch * steps, steps):
                continue
            if count % every == 0:
                yield Point(kind, plan, batch, steps)
            count += 1
    for kind, batch, steps in product(KINDS, BATCHES, STEPS):
        matrix = Matrix.input_to_hidden("weight_ih_l0", kind, 2048, 2048)
        plan = Rule.parse("64x32:32x64", "40,60,48,48").resolve(matrix)
        if not too_large(plan, batch * steps, steps):
            yield Point(kind, plan, batch, steps)


def too_large(plan: WeightPlan, rows: int, steps: int) -> bool:
    """Whether inputs and weights do not fit a small machine, or a dense training step takes over half a second."""
    matrix = plan.matrix
    values = rows * matrix.columns + 3 * matrix.parameters
    macs = 3 * rows * matrix.rows * (matrix.columns + matrix.gate_rows)
    serial = steps * matrix.rows * matrix.gate_rows
    if 4 * values > MOST_BYTES or macs > MOST_MACS or serial > MOST_SERIAL:
        return True
    width = plan.structure.bottleneck * plan.copies
    merging = width * matrix.parameters  # once, where K is so large that the weight is materialised
    factors = width * (matrix.columns + matrix.rows)
    return 4 * factors > MOST_BYTES or merging > MOST_MERGING


def measure(point: Point, device: torch.device, seconds: float) -> dict[str, Any]:
    """Times and operations of one point."""
    matrix = point.plan.matrix
    ring_type, dense_type = KINDS[point.kind]
    ring = ring_type(matrix.columns, matrix.gate_rows, weights={matrix.key: point.plan}, device=device)
    dense = dense_type(matrix.columns, matrix.gate_rows, device=device)
    x = torch.randn(point.steps, point.batch, matrix.columns, device=device)
    models = {"ring": ring.eval(), "dense": dense.eval()}
    with torch.no_grad():
        calls = {name: lambda model=model: model(x) for name, model in models.items()}
        found = {"eval_ms": in_turns(calls, device, seconds)}
    evaluated = ring.strategy.chosen[matrix.key]
    for model in models.values():
        model.train()
    calls = {name: lambda model=model: step(model, x) for name, model in models.items()}
    found["train_ms"] = in_turns(calls, device, seconds)
    return {"name": point.name, "eval_form": evaluated, "train_form": ring.strategy.chosen[matrix.key]} | found


def step(model: nn.Module, x: torch.Tensor) -> None:
    """Forward and backward after an update of every parameter."""
    model.zero_grad()
    model(x)[0].sum().backward()
    with torch.no_grad():
        torch._foreach_mul_(list(model.parameters()), 1.0)


def judge(point: Point, result: dict[str, Any]) -> dict[str, Any]:
    """Add operations, what is allowed, and how much of it is used (1 is the limit)."""
    for what, training in (("eval", False), ("train", True)):
        use = point.use(training)
        dense_macs = dense_estimate(point.plan, use).macs
        priced = {str(one.form): one.macs for one in estimates(point.plan, use)}
        result[f"{what}_macs"] = {
            "dense": dense_macs,
            "ring": priced[result[f"{what}_form"]],
            "best": min(priced.values()),
        }
        dense, ring = result[f"{what}_ms"]["dense"], result[f"{what}_ms"]["ring"]
        allowed = EVAL * dense
        if training:
            allowed = TRAIN * dense * max(1.0, min(priced.values()) / dense_macs)
        allowed = max(allowed, dense + SLACK_MS[what])
        result[f"{what}_used"] = ring / allowed
    return result


def row_of(result: dict[str, Any]) -> list[str]:
    """The cells of one point."""
    cells = [result["name"]]
    for what in ("eval", "train"):
        ms, macs = result[f"{what}_ms"], result[f"{what}_macs"]
        used = result[f"{what}_used"]
        cells += [
            f"{ms['dense']:,.3f}",
            f"{ms['ring']:,.3f}",
            f"{macs['dense']:.1e}",
            f"{macs['ring']:.1e}",
            result[f"{what}_form"].split(",")[0],
            f"{used:.2f}" + (" OVER" if used > 1 else ""),
        ]
    return cells


def table_of(results: list[dict[str, Any]], title: str) -> Table:
    """Points as a table: times and operations of dense and ring, the form, the share used of what is allowed."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layer, batch, steps, ratio", no_wrap=True)
    for what in ("eval", "train"):
        for column in (f"{what} dense ms", "ring ms", "dense ops", "ring ops", "form", "used"):
            table.add_column(column, justify="right")
    for result in results:
        table.add_row(*row_of(result))
    return table


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """How many points are over the limit, and the worst ratios."""
    found: dict[str, Any] = {"points": len(results)}
    for what in ("eval", "train"):
        used = sorted(results, key=lambda one, what=what: -one[f"{what}_used"])
        ratios = [one[f"{what}_ms"]["ring"] / one[f"{what}_ms"]["dense"] for one in results]
        found[what] = {
            "over": sum(one[f"{what}_used"] > 1 for one in results),
            "worst_used": used[0][f"{what}_used"],
            "worst": used[0]["name"],
            "highest_ratio": max(ratios),
            "median_ratio": statistics.median(ratios),
        }
    return found


def measure_all(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure this part of the grid; a point over its limit is measured again, longer, before it counts."""
    device = torch.device(options.device)
    part, parts = options.part
    chosen = [point for at, point in enumerate(points(options.every)) if at % parts == part - 1]
    for point in chosen:
        for attempt in range(1 + options.again):
            result = judge(point, measure(point, device, options.seconds * (1 + 3 * attempt)))
            if max(result["eval_used"], result["train_used"]) <= 1:
                break
        if options.verbose:
            console.print(" ".join(row_of(result)))
        yield result


def earlier_results(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Points measured before, by name, on the same machine with the same settings."""
    if not path.is_file():
        return {}
    earlier = json.loads(path.read_text())
    if any(earlier[name] != about[name] for name in ("machine", "threads", "device", "seconds")):
        return {}
    return {one["name"]: one for one in earlier["results"]}


def write(path: Path, about: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Write everything, one line a point."""
    lines = ",\n".join(json.dumps(one) for one in results)
    head = json.dumps(about | {"summary": summary(results)}, indent=1)[:-2]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f'{head},\n "results": [\n{lines}\n]}}\n')


def part_of(text: str) -> tuple[int, int]:
    """Read "2/6"."""
    part, _, parts = text.partition("/")
    if not 1 <= int(part) <= int(parts):
        raise argparse.ArgumentTypeError(f"a part is I/N with 1 <= I <= N: got {text}")
    return int(part), int(parts)


def main() -> None:
    """Run the grid, or a part of it; print the worst points; write all points measured so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="thin the grid to one point in so many")
    parser.add_argument(
        "--part", type=part_of, default=(1, 1), metavar="I/N", help="every N-th point from the I-th"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="per point, for eval and for training each")
    parser.add_argument(
        "--again", type=int, default=2, help="measure a point over its limit so often again, longer"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--verbose", action="store_true", help="print each point when it is measured")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    given = {name: getattr(options, name) for name in ("threads", "device", "seed", "seconds")}
    about = {
        "command": shlex.join(["python", "benchmarks/never_slower.py", *sys.argv[1:]]),
        "machine": this_machine().model_dump(mode="json"),
    } | given
    found = earlier_results(options.out, about)
    for result in measure_all(options):
        found[result["name"]] = result
        write(options.out, about, sorted(found.values(), key=lambda one: one["name"]))
    results = sorted(found.values(), key=lambda one: one["name"])
    for what in ("eval", "train"):
        worst = sorted(results, key=lambda one, what=what: -one[f"{what}_used"])[:SHOWN]
        title = f"the {len(worst)} worst points in {what} of {len(results)}; used: 1 is the limit"
        console.print(table_of(worst, title))
    console.print_json(data=summary(results))


if __name__ == "__main__":
    main()
