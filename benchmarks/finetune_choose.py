"""How the settings of benchmarks/finetune.py were chosen: cross-validation over groups of the training part.

Run: python benchmarks/finetune_choose.py --tasks hapt
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from finetune import console
from finetune_tasks import TASKS, Structure, Task
from samples import find_sample

from trcompress.artifact.write import write_artifact
from trcompress.data import DataSet, Split, load_data
from trcompress.model.plan import Plan
from trcompress.network.classifier import Wiring
from trcompress.passes.assemble import decompose_checkpoint
from trcompress.training.dense import train_dense
from trcompress.training.finetune import finetune
from trcompress.training.settings import read_settings


def main() -> None:
    """Cross-validate the candidates that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="which data sets")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="candidates whose name holds this text")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for task in (TASKS[name] for name in given.tasks.split(",")):
        path = find_sample(task.sample)
        if path is None:
            console.print(f"{task.name}: the sample {task.sample} is not at hand; left out")
        else:
            choose(task, load_data(path, validation_fraction=0.0, **task.options), given.only)


def choose(task: Task, data: DataSet, only: str) -> None:
    """Cross-validate the candidates over groups of the training part."""
    parts = list(folds(data))
    for what, name, changes in task.candidates:
        if only not in name:
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
