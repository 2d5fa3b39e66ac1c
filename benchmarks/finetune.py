"""Fine-tuning on real data: how much of a dense network's accuracy rings keep, beside SVD and scratch starts.

HAPT (six activities, unseen people) and Flare (eight actions, unseen outfits). For each of three seeds a dense LSTM
is trained by the library's loop, decomposed, and fine-tuned with the dense network as its teacher; a two-mode ring
is truncated SVD, so the rival of equal size goes through the same code and the same training. Settings were chosen
by cross-validation on the training people and outfits (--choose), never on the test part; no run looks at the test
part before it ends, and every run keeps its last epoch.

Run: python benchmarks/finetune.py                 (all figures; runs already in the JSON file are not repeated)
     python benchmarks/finetune.py --choose        (the cross-validation)
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from trcompress.artifact import write_artifact
from trcompress.classifier import Wiring
from trcompress.compress import decompose_checkpoint
from trcompress.data import DataSet, Split, load_data
from trcompress.files import write_text
from trcompress.finetune import finetune, train_dense
from trcompress.plan import Plan
from trcompress.training.settings import read_settings
from trcompress.version import __version__

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from samples import find_sample  # noqa: E402 - the one place that knows where samples are

console = Console(highlight=False)


@dataclass(frozen=True)
class Structure:
    """What takes the place of the dense weight.

    Args:
        name: in tables.
        shape: as `--shape`.
        ranks: as `--ranks`.
    """

    name: str
    shape: str
    ranks: str

    @property
    def init(self) -> str:
        """SVD is the best two-mode ring; others are found by ALS."""
        return "tr-svd" if self.name.startswith("SVD") else "tr-als"


@dataclass(frozen=True)
class Task:
    """One data set with its network.

    Args:
        sample: file of the data.
        options: how it is read and divided.
        hidden: units of the dense LSTM.
        readout: what the linear head sees of its outputs.
        dense: settings of its training.
        tune: settings of fine-tuning, the same for every structure.
        structures: in tables, in order.
        candidates: what `--choose` compares; "dense", "tune" or "structure", name, changes.
    """

    name: str
    sample: str
    options: dict[str, Any]
    hidden: int
    readout: str
    dense: dict[str, Any]
    tune: dict[str, Any]
    structures: tuple[Structure, ...]
    candidates: tuple[tuple[str, str, dict[str, Any]], ...] = ()


HAPT = Task(
    name="HAPT",
    sample="hapt_windows.npz",
    options={"steps": 8, "standardize": True, "group_key": "subject", "test_groups": (2, 4, 9, 10, 12, 13)},
    hidden=128,
    readout="mean",
    dense={"epochs": 8, "batch_size": 64, "lr": 2e-3, "dropout": 0.5, "label_smoothing": 0.1},
    tune={"epochs": 8, "batch_size": 64, "lr": 3e-3, "core_lr_scale": 1.0},
    structures=(
        Structure("ring", "16x6:32x16", "4"),
        Structure("SVD", "96:512", "1,2"),
        Structure("ring", "12x8:32x16", "3"),
        Structure("SVD", "96:512", "1"),
    ),
    candidates=(
        ("dense", "lr 1e-3, plain", {"lr": 1e-3, "dropout": 0.0, "label_smoothing": 0.0}),
        ("dense", "dropout 0.5, smoothing 0.1", {}),
        ("dense", "and input dropout 0.2", {"input_dropout": 0.2}),
        ("dense", "and input dropout 0.4", {"input_dropout": 0.4}),
        ("tune", "lr 3e-3", {}),
        ("tune", "lr 3e-3, hidden states", {"distill": {"hidden": 1.0}}),
        ("tune", "lr 3e-3, input dropout 0.2", {"input_dropout": 0.2}),
        ("tune", "lr 3e-3, 16 epochs", {"epochs": 16}),
        ("structure", "78x: 16x6:32x16 ranks 3", {"shape": "16x6:32x16", "ranks": "3"}),
        ("structure", "80x: 12x8:32x16 ranks 3", {"shape": "12x8:32x16", "ranks": "3"}),
    ),
)
FLARE = Task(
    name="Flare",
    sample="flare_40x30.npz",
    options={"group_key": "outfit", "split": "group", "test_fraction": 0.2},
    hidden=64,
    readout="final",
    dense={"epochs": 16, "batch_size": 32, "lr": 5e-4, "dropout": 0.3},
    tune={"epochs": 16, "batch_size": 32, "lr": 2e-3, "dropout": 0.3},
    structures=(
        Structure("ring", "30x40x3:8x8", "5"),
        Structure("ring", "30x40x3:16x4", "3,5"),
        Structure("ring", "30x40x3:8x8", "3"),
        Structure("ring", "30x40x3:8x8", "2,4"),
        Structure("ring", "30x40x3:8x8", "2"),
    ),
    candidates=(
        ("dense", "as the sample's notes", {}),
        ("dense", "lr 1e-3", {"lr": 1e-3}),
        ("dense", "dropout 0.5", {"dropout": 0.5}),
        ("tune", "lr 2e-3", {}),
        ("tune", "lr 5e-3", {"lr": 5e-3}),
        ("tune", "lr 5e-3 hidden", {"lr": 5e-3, "distill": {"hidden": 1.0}}),
        ("tune", "lr 1e-2 equal rates", {"lr": 1e-2, "core_lr_scale": 1.0}),
    ),
)
TASKS = {task.name.lower(): task for task in (HAPT, FLARE)}


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
        if given.choose:
            choose(task, data, given)
        else:
            run(task, data, given)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="which data sets")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--choose", action="store_true", help="cross-validate the candidate settings instead")
    parser.add_argument("--only", default="", help="with --choose: candidates whose name holds this text")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench-finetune.json")
    return parser.parse_args()


# ---- the figures


def run(task: Task, data: DataSet, given: argparse.Namespace) -> None:
    """Do the runs that the file does not hold yet, and print all of them."""
    record = read_record(given.out)
    for seed in map(int, given.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            for key, figures in runs(task, data, seed, Path(folder), record):
                record["runs"][key] = figures
                record["machine"] = f"{platform.processor() or platform.machine()}, {given.threads} threads"
                write_text(given.out, json.dumps(record, indent=1) + "\n")
    console.print(table(task, data, record, [int(seed) for seed in given.seeds.split(",")]))


def read_record(path: Path) -> dict[str, Any]:
    """Read earlier runs; those of another version or other settings have other keys."""
    if path.exists():
        return json.loads(path.read_text())
    return {"version": __version__, "torch": torch.__version__, "runs": {}}


def runs(
    task: Task, data: DataSet, seed: int, folder: Path, record: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train, decompose and fine-tune for one seed; yield each run's figures by its key."""
    if not missing(task, seed, record):
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


def missing(task: Task, seed: int, record: dict[str, Any]) -> bool:
    """Whether a run of this seed is still to be done."""
    keys = [run_key(task, start, structure, seed) for structure, start in variants(task)]
    return any(key not in record["runs"] for key in [run_key(task, "dense", None, seed), *keys])


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
    what = f"{structure.name} {structure.shape} ranks {structure.ranks}" if structure else "dense"
    used = {"dense": task.dense, "readout": task.readout} | ({"tune": task.tune} if structure else {})
    settings = json.dumps(used, sort_keys=True)
    return f"{task.name} | {what} | {start} | seed {seed} | {settings}"


def table(task: Task, data: DataSet, record: dict[str, Any], seeds: list[int]) -> Table:
    """Medians over seeds, with the least and the greatest."""
    found = record["runs"]
    title = (
        f"{task.name}: accuracy on the test part, {data.split_note}; median [least, greatest] of {len(seeds)} seeds"
    )
    page = Table(title=title, title_justify="left")
    for column in ("input-to-hidden weight", "parameters", "Eq. 7", "decomposed", "fine-tuned", "from scratch"):
        page.add_column(column, justify="left" if "weight" in column else "right")
    dense = [found[run_key(task, "dense", None, seed)]["accuracy"] for seed in seeds]
    page.add_row(f"dense LSTM({data.input_size}, {task.hidden})", f"{4 * task.hidden * data.input_size:,}", "1x",
                 "", spread(dense), "")  # fmt: skip
    for structure in task.structures:
        tuned_runs, scratch = (
            [found[key] for seed in seeds if (key := run_key(task, start, structure, seed)) in found]
            for start in ("artifact", "scratch")
        )
        first = tuned_runs[0]
        page.add_row(
            f"{structure.name} {structure.shape} ranks {structure.ranks}",
            f"{first['parameters']:,}",
            f"{first['compression_ratio']:.1f}x",
            spread([one["before"] for one in tuned_runs]),
            spread([one["accuracy"] for one in tuned_runs]),
            spread([one["accuracy"] for one in scratch]) if scratch else "",
        )
    return page


def spread(values: list[float]) -> str:
    """Median and range in percent."""
    return f"{median(values):.1%} [{min(values):.1%}, {max(values):.1%}]"


# ---- how the settings were chosen


def choose(task: Task, data: DataSet, given: argparse.Namespace) -> None:
    """Cross-validate the candidates over groups of the training part."""
    parts = list(folds(data))
    for what, name, changes in task.candidates:
        if given.only not in name:
            continue
        readout = changes.pop("readout", task.readout)
        if what == "structure":
            candidate = replace(task, structures=(Structure("ring", **changes),))
        else:
            candidate = replace(task, readout=readout, **{what: {**getattr(task, what), **changes}})
        scores = [validate(candidate, part, what, seed) for seed, part in enumerate(parts)]
        last = np.array([one[-1] for one in scores])
        console.print(f"{task.name} {what} {name}: {last.mean():.4f}  folds {last.round(3).tolist()}")


def folds(data: DataSet, count: int = 3) -> Iterator[DataSet]:
    """Divide the groups of the training part; each fold is validated on the groups of one division."""
    groups = data.train.groups
    if groups is None:
        raise ValueError("cross-validation needs groups")
    names = np.unique(groups)
    np.random.default_rng(0).shuffle(names)
    for part in np.array_split(names, count):
        held = np.isin(groups, part)
        yield replace(
            data,
            train=rows(data.train, ~held),
            validation=replace(rows(data.train, held), name="validation"),
            test=None,
        )


def rows(split: Split, mask: np.ndarray) -> Split:
    """Take some rows of a split."""
    groups = None if split.groups is None else split.groups[mask]
    return replace(split, labels=split.labels[mask], rows=split.rows[mask], groups=groups)


def validate(task: Task, data: DataSet, what: str, seed: int) -> list[float]:
    """Accuracy on the held-out groups after each epoch."""
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.safetensors"
        settings = read_settings(task.dense | {"seed": seed})
        result = train_dense(data, dense, hidden_size=task.hidden, readout=task.readout, settings=settings)
        if what != "dense":
            structure = task.structures[0]
            ring = dense.with_name("ring.safetensors")
            plan = Plan.of(structure.shape, structure.ranks)
            write_artifact(ring, decompose_checkpoint(dense, plan, init=structure.init, seed=seed))
            settings = read_settings(task.tune | {"seed": seed})
            result = finetune(ring, data, teacher=dense, settings=settings, wiring=Wiring(readout=task.readout))
        return [record["validation_accuracy"] for record in result.history]


if __name__ == "__main__":
    main()
