"""Fine-tuning on real data: how much of a dense network's accuracy rings keep, beside SVD and scratch starts.

HAPT (six activities, unseen people) and Flare (eight actions, unseen outfits). For each of three seeds a dense LSTM
is trained by the library's loop, decomposed, and fine-tuned with the dense network as its teacher; a two-mode ring
is truncated SVD, so the rival of equal size goes through the same code and the same training. The settings of
fine-tuning were chosen by cross-validation on the training people and outfits (benchmarks/finetune_choose.py),
never on the test part; no run looks at the test part before it ends, and every run keeps its last epoch.

Run: python benchmarks/finetune.py                 (all figures; runs already in its runs.json are not repeated)
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from finetune_tasks import TASKS, Structure, Task
from kept import kept_figures
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Page
from samples import find_sample

from trcompress.artifact.write import write_artifact
from trcompress.data import DataSet, load_data
from trcompress.model.plan import Plan
from trcompress.network.classifier import Wiring
from trcompress.passes.assemble import decompose_checkpoint
from trcompress.reproduce.result import Claim, Findings, Result, Table, write_result
from trcompress.training.dense import train_dense
from trcompress.training.finetune import finetune
from trcompress.training.settings import read_settings
from trcompress.util.files import write_text
from trcompress.util.hardware import Hardware, this_machine
from trcompress.version import __version__

ROOT = Path(__file__).resolve().parent.parent
console = Console(highlight=False)


def main() -> None:
    """Run what is asked for and print it."""
    given = read_arguments()
    torch.set_num_threads(given.threads)
    tasks = [TASKS[name] for name in given.tasks.split(",")]
    for task in tasks:
        path = find_sample(task.sample)
        if path is None:
            console.print(f"{task.name}: the sample {task.sample} is not at hand; left out")
            continue
        data = load_data(path, validation_fraction=0.0, **task.options)
        run(task, data, given)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="which data sets")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "finetune", help="folder")
    return parser.parse_args()


# ---- the figures


def run(task: Task, data: DataSet, given: argparse.Namespace) -> None:
    """Do the runs that the file does not hold yet, print all of them and write the result."""
    folder = given.out / task.name.lower()
    folder.mkdir(parents=True, exist_ok=True)
    record = kept_figures(folder / "runs.json") or {"machine": this_machine().model_dump(mode="json"), "runs": {}}
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            for key, figures in runs(task, data, seed, Path(scratch), record):
                record["runs"][key] = figures
                write_text(folder / "runs.json", json.dumps(record, indent=1) + "\n")
    outcome = table(task, data, record, seeds)
    write_result(folder, result_of(task, data, record, seeds, outcome))
    page = Page(*outcome.columns, title=escape(outcome.title), title_justify="left")
    for row in outcome.rows:
        page.add_row(*(escape(str(cell)) for cell in row))
    console.print(page)
    for claim in claims(task, record, seeds):
        console.print(f"{'holds' if claim.holds else 'DOES NOT HOLD'}: {claim.text}. {claim.evidence}")


def runs(
    task: Task, data: DataSet, seed: int, folder: Path, record: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train, decompose and fine-tune for one seed; yield each run's figures by its key."""
    if all(key in record["runs"] for key in keys_of(task, [seed])):
        return
    dense = folder / "dense.safetensors"
    started = time.perf_counter()
    settings = read_settings(task.dense | {"seed": seed})
    trained = train_dense(data, dense, hidden_size=task.hidden, readout=task.readout, settings=settings)
    key = run_key(task, "dense", None, seed)
    if key not in record["runs"]:
        yield key, {"accuracy": trained.metrics["accuracy_after"], "seconds": time.perf_counter() - started}
    for structure, start in variants(task):
        key = run_key(task, start, structure, seed)
        if key not in record["runs"]:
            yield key, tuned(task, data, dense, structure, start, seed)


def variants(task: Task) -> list[tuple[Structure, str]]:
    """Every structure from its artifact, and rings also from scratch."""
    starts = {"ring": ("artifact", "scratch"), "SVD": ("artifact",)}
    return [(structure, start) for structure in task.structures for start in starts[structure.name]]


def keys_of(task: Task, seeds: list[int]) -> list[str]:
    """Every run of these seeds."""
    ways = [(None, "dense"), *variants(task)]
    return [run_key(task, start, structure, seed) for seed in seeds for structure, start in ways]


def tuned(task: Task, data: DataSet, dense: Path, structure: Structure, start: str, seed: int) -> dict[str, Any]:
    """Decompose and fine-tune once."""
    started = time.perf_counter()
    plan = Plan.of(structure.shape, structure.ranks)
    artifact = decompose_checkpoint(dense, plan, init=structure.init, seed=seed)
    weight = next(iter(artifact.weight_plans().values()))
    ring = dense.with_name("ring.safetensors")
    write_artifact(ring, artifact, overwrite=True)
    settings = read_settings(task.tune | {"seed": seed, "start": start})
    wiring = Wiring(readout=task.readout)
    result = finetune(ring, data, teacher=dense, settings=settings, wiring=wiring, overwrite=True)
    return {
        "accuracy": result.metrics["accuracy_after"],
        "before": result.metrics["accuracy_before"],
        "first_epoch_loss": result.history[1]["loss"],
        "parameters": weight.parameters,
        "compression_ratio": weight.compression_ratio,
        "seconds": time.perf_counter() - started,
    }


def run_key(task: Task, start: str, structure: Structure | None, seed: int) -> str:
    """Name a run by everything that it depends on."""
    used = {"dense": task.dense, "readout": task.readout} | ({"tune": task.tune} if structure else {})
    settings = json.dumps(used, sort_keys=True)
    return f"{task.name} | {structure.label if structure else 'dense'} | {start} | seed {seed} | {settings}"


def accuracies(
    task: Task,
    record: dict[str, Any],
    seeds: list[int],
    structure: Structure | None,
    start: str,
    what: str = "accuracy",
) -> list[float]:
    """One figure of the same run for every seed."""
    keys = [run_key(task, start, structure, seed) for seed in seeds]
    return [record["runs"][key][what] for key in keys if key in record["runs"]]


def table(task: Task, data: DataSet, record: dict[str, Any], seeds: list[int]) -> Table:
    """Medians over seeds, with the least and the greatest."""
    dense = spread(accuracies(task, record, seeds, None, "dense"))
    size = 4 * task.hidden * data.input_size
    rows = [(f"dense LSTM({data.input_size}, {task.hidden})", f"{size:,}", "1x", "", dense, "")]
    for structure in task.structures:
        first = record["runs"][run_key(task, "artifact", structure, seeds[0])]
        found = [
            accuracies(task, record, seeds, structure, start, what)
            for start, what in (("artifact", "before"), ("artifact", "accuracy"), ("scratch", "accuracy"))
        ]
        counts = f"{first['parameters']:,}", f"{first['compression_ratio']:.1f}x"
        rows.append((structure.label, *counts, *(spread(one) if one else "" for one in found)))
    return Table(
        title=f"{task.name}: accuracy on the test part, median [least, greatest] of {len(seeds)} seeds",
        columns=("input-to-hidden", "parameters", "Eq. 7", "decomposed", "fine-tuned", "from scratch"),
        rows=tuple(rows),
    )


def claims(task: Task, record: dict[str, Any], seeds: list[int]) -> tuple[Claim, ...]:
    """Judge the goals by medians."""
    medians = {
        structure.label: median(accuracies(task, record, seeds, structure, "artifact"))
        for structure in task.structures
    }
    dense, found = median(accuracies(task, record, seeds, None, "dense")), []
    for goal in task.goals:
        ring = medians[goal.ring]
        if goal.least is not None:
            found.append((f"{goal.ring} reaches {goal.least:.0%}", ring >= goal.least, f"{ring:.1%}"))
        if goal.below_dense is not None:
            text = f"{goal.ring} is at most {100 * goal.below_dense:g} points below dense"
            found.append((text, ring >= dense - goal.below_dense, f"{ring:.1%} against {dense:.1%}"))
        if goal.rival:
            rival = medians[goal.rival]
            text = f"{goal.ring} is {100 * goal.lead:g} points above {goal.rival}, trained alike"
            found.append((text, ring >= rival + goal.lead, f"{ring:.1%} against {rival:.1%}"))
    return tuple(Claim(text=text, holds=holds, evidence=evidence) for text, holds, evidence in found)


def result_of(task: Task, data: DataSet, record: dict[str, Any], seeds: list[int], outcome: Table) -> Result:
    """All of it as the results page takes it."""
    return Result(
        recipe=f"benchmarks/finetune.py {task.name}",
        title=f"Fine-tuning on {task.name}: from trained weights, from scratch, and truncated SVD",
        row="beyond the paper: pretrained networks",
        quick=False,
        findings=Findings(
            data=data.name,
            claims=claims(task, record, seeds),
            tables=(outcome,),
            notes=(
                f"test part {data.split_note}; settings were chosen by cross-validation on the training part",
                "a two-mode ring is a truncated SVD, trained as the rings are; the dense network is the teacher",
                "decomposed: after plain decomposition, before any training; the last epoch counts",
            ),
        ),
        seeds=tuple(seeds),
        command=f"python benchmarks/finetune.py --tasks {task.name.lower()}",
        version=__version__,
        machine=Hardware(**record["machine"]),
        seconds=round(sum(record["runs"][key]["seconds"] for key in keys_of(task, seeds)), 1),
    )


def spread(values: list[float]) -> str:
    """Median and range in percent."""
    return f"{median(values):.1%} [{min(values):.1%}, {max(values):.1%}]"


if __name__ == "__main__":
    main()
