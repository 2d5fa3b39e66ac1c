"""Decompositions side by side: TR-SVD and TR-ALS, TensorLy's ring ALS and tensor train, truncated SVD.

    python benchmarks/decompose.py [--only medium] [--peer-seconds 60] [--tensorly-flagship]

Every method runs in a process of its own; peak memory is the kernel's for the whole process (interpreter, torch and
W included). Parts:

    planted   twenty exact rings, default settings: how many are found again, to 1e-6
    medium    3,600 x 1,024, six modes: a ring plus 10 % noise; medium-9 with nine modes
    g2p       the encoder's input weight of a pretrained grapheme-to-phoneme GRU, 256 x 768 (a sample file)
    flagship  57,600 x 1,024, the paper's 13 modes and ranks: a ring plus 10 % noise; the weight of a new nn.LSTM

A sweep solves for every core once; tr-als makes two of them for each pair of passes over W.
TensorLy's ring ALS stops by itself or after --peer-seconds, but never before one sweep. Its single sweep of the
flagship takes minutes and 13 GB, hence the option.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from decompose_cases import PLANTED, PROBLEMS, RECOVERED, planted
from kept import kept_figures
from rich.table import Table
from tensor_trains import TensorTrains
from torch import Tensor
from watched import RESULTS, Watched, console, save, watch

from trcompress.decomposition import InMemoryMatrix, Settings, decompose
from trcompress.decomposition import als as tr_als
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.spectrum import spectrum
from trcompress.decomposition.starts import random_cores
from trcompress.formats import TensorRing

PARTS = ("planted", "medium", "medium-9", "g2p", "flagship")
OURS = ("tr-svd", "tr-als")
PEERS = ("truncated SVD", "TensorLy TT", "TensorLy ring ALS")
STEPS = 10
"""Steps that the time of a sweep is taken from."""
INNER = Settings().inner
"""Sweeps of tr-als in one step, which passes twice over W."""


def ours(init: str, weight: Tensor, ring: TensorRing, seed: int) -> dict[str, Any]:
    """Decompose with default settings; then time sweeps of the same kind."""
    begin = time.perf_counter()
    found = decompose(weight, ring, init=init, seed=seed)
    result = {"seconds": time.perf_counter() - begin, "error": found.error, "bound": found.bound}
    if init == "tr-als":
        objective = Objective(InMemoryMatrix(weight), ring)
        cores, times = random_cores(objective, torch.Generator().manual_seed(seed)), []
        for _ in range(STEPS):
            begin = time.perf_counter()
            cores, _ = tr_als.step(objective, cores, INNER, objective.source.rough_dtype)
            times.append((time.perf_counter() - begin) / INNER)
        result |= {"sweeps": INNER * found.sweeps, "seconds_per_sweep": statistics.median(times)}
    return result


def tensorly_ring(weight: Tensor, ring: TensorRing, seed: int, seconds: float) -> dict[str, Any]:
    """TensorLy's ring ALS, watched sweep by sweep; the error is that of its last sweep."""
    import tensorly as tl
    from tensorly.decomposition import tensor_ring_als

    begin, seen = time.perf_counter(), []

    def watch_sweep(_: object, error: Tensor) -> bool:
        seen.append((time.perf_counter(), float(error)))
        return len(seen) > 1 and time.perf_counter() - begin > seconds

    with tl.backend_context("pytorch"):
        tensor = weight.t().reshape(ring.modes)
        tensor_ring_als(tensor, list(ring.ranks), n_iter_max=1000, random_state=seed, callback=watch_sweep)
    steps = [after[0] - before[0] for before, after in pairwise(seen)]
    return {
        "seconds": seen[-1][0] - begin,
        "error": seen[-1][1],
        "sweeps": len(steps),
        "seconds_per_sweep": statistics.median(steps),
    }


def truncated_svd(weight: Tensor, ring: TensorRing) -> dict[str, Any]:
    """The two-mode ring of the same count."""
    begin = time.perf_counter()
    rank = ring.parameters // sum(weight.shape)
    source = InMemoryMatrix(weight)
    return {
        "error": spectrum(source).tail(rank) / source.squared_norm**0.5,
        "seconds": time.perf_counter() - begin,
        "note": f"rank {rank}",
    }


def tensorly_train(weight: Tensor, ring: TensorRing) -> dict[str, Any]:
    """TensorLy's TT-SVD of the same count, the best of its mode choices; the SVD of all of them counts."""
    begin = time.perf_counter()
    error = TensorTrains(InMemoryMatrix(weight)).error(ring.parameters)
    return {"error": error, "seconds": time.perf_counter() - begin}


def child(method: str, problem: str, seed: int, peer_seconds: float) -> None:
    """Run one method on one problem and print what it found."""
    if problem == "planted":
        print(json.dumps([_one(method, *planted(number), seed, peer_seconds) for number in range(len(PLANTED))]))
        return
    weight, ring = PROBLEMS[problem].make()
    print(json.dumps(_one(method, weight, ring, seed, peer_seconds) | {"parameters": ring.parameters}))


def _one(method: str, weight: Tensor, ring: TensorRing, seed: int, peer_seconds: float) -> dict[str, Any]:
    if method in OURS:
        return ours(method, weight, ring, seed)
    if method == "TensorLy ring ALS":
        return tensorly_ring(weight, ring, seed, peer_seconds)
    return truncated_svd(weight, ring) if method == "truncated SVD" else tensorly_train(weight, ring)


def run(method: str, problem: str, given: argparse.Namespace) -> tuple[Any, Watched]:
    """Run a method in a process of its own."""
    command = [sys.executable, __file__, "--child", method, "--problem", problem]
    options = ["--seed", given.seed, "--peer-seconds", given.peer_seconds, "--threads", given.threads]
    seen = watch([*command, *map(str, options)])
    return json.loads(seen.output.splitlines()[-1]), seen


def compare(problem: str, methods: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """Run the methods on one problem, print them side by side."""
    case = PROBLEMS[problem]
    table = Table(title=case.title, title_justify="left")
    table.add_column("method")
    for column in ("time", "sweeps", "a sweep", "peak memory", "error", "bound"):
        table.add_column(column, justify="right")
    rows: dict[str, Any] = {}
    for method in methods:
        found, seen = run(method, problem, given)
        rows[method] = found | {"peak_bytes": seen.peak_bytes}
        table.add_row(
            f"{method} {found.get('note', '')}".strip(),
            f"{found['seconds']:.2f} s",
            str(found.get("sweeps", "")),
            f"{1e3 * found['seconds_per_sweep']:,.1f} ms" if "seconds_per_sweep" in found else "",
            f"{seen.peak_bytes / 1e6:,.0f} MB",
            "-" if found["error"] is None else f"{found['error']:.4f}",
            f"{found['bound']:.4f}" if "bound" in found else "",
        )
    console.print(table)
    report = {"problem": case.title, "rows": rows}
    if {"tr-als", "TensorLy ring ALS"} <= rows.keys():
        peer, mine = (rows[name]["seconds_per_sweep"] for name in ("TensorLy ring ALS", "tr-als"))
        report["times_faster_per_sweep"] = peer / mine
        console.print(f"a sweep of tr-als is {peer / mine:.0f}x faster than TensorLy's\n", highlight=False)
    return report


def compare_planted(given: argparse.Namespace) -> dict[str, Any]:
    """Count the planted rings that are found again."""
    table = Table(title="planted exact rings, default settings", title_justify="left")
    for column in ("shape", "ranks R0..", "cores"):
        table.add_column(column)
    methods = ("tr-als", "TensorLy ring ALS")
    found = {method: run(method, "planted", given)[0] for method in methods}
    for method in methods:
        table.add_column(method, justify="right")
        table.add_column("time", justify="right")
    for number, (shape, ranks, kind) in enumerate(PLANTED):
        cells = [(f"{one['error']:.1e}", f"{one['seconds']:.2f} s") for one in (found[m][number] for m in methods)]
        table.add_row(shape, ",".join(map(str, ranks)), kind, *(cell for pair in cells for cell in pair))
    console.print(table)
    recovered = {method: sum(one["error"] < RECOVERED for one in found[method]) for method in methods}
    for method, count in recovered.items():
        console.print(f"{method}: {count} of {len(PLANTED)} recovered to {RECOVERED:g}", highlight=False)
    return {"recovered": recovered, "of": len(PLANTED), "rings": PLANTED, "found": found}


def measure(part: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run one part."""
    if part == "planted":
        return compare_planted(given)
    if part == "flagship":
        methods = [*OURS, *(["TensorLy ring ALS"] if given.tensorly_flagship else [])]
        return {name: compare(name, methods, given) for name in ("flagship", "flagship new")}
    return compare(part, [*OURS, *PEERS], given)


def main() -> None:
    """Run the parts asked for, print their tables, keep them beside those of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part; the figures of the others stay in the file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peer-seconds", type=float, default=60.0, help="for TensorLy's ring ALS")
    parser.add_argument("--tensorly-flagship", action="store_true", help="one sweep of it: minutes, 13 GB")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench-decompose.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--problem", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child:
        child(given.child, given.problem, given.seed, given.peer_seconds)
        return
    parts = kept_figures(given.out).get("parts", {})
    for part in [given.only] if given.only else PARTS:
        found = measure(part, given)
        parts[part] = {"arguments": shlex.join(sys.argv[1:]), "threads": given.threads, **found}
        save(given.out, {"parts": parts}, given.seed)


if __name__ == "__main__":
    main()
