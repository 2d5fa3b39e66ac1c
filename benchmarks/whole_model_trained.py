"""The whole file where there is training: dense, compressed and trained, and what else the same training could buy.

Four networks, each judged after its last epoch: dense; dense given the same extra training; the file that
`trcompress compress --finetune` makes; and a fresh network of that file's form and storage, with the same teacher,
trained for as many epochs as dense and compressed took together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from finetune_tasks import Task
from kept import Kept
from safetensors.torch import load_file

from trcompress.artifact.write import write_artifact
from trcompress.data import DataSet
from trcompress.model.plan import Plan
from trcompress.network.classifier import Wiring
from trcompress.network.model_file import open_model
from trcompress.network.read_classifier import read_classifier
from trcompress.passes.assemble import decompose_checkpoint
from trcompress.passes.runnable import runnable_classifier
from trcompress.passes.trained import compress_and_train
from trcompress.passes.whole_file import base_artifact
from trcompress.training.dense import train_dense
from trcompress.training.evaluate import evaluate
from trcompress.training.finetune import finetune
from trcompress.training.settings import read_settings

Row = dict[str, Any]


@dataclass(frozen=True)
class Ring:
    """A ring that takes the dense input weight's place before the whole file is looked at.

    Args:
        shape: as `--shape`.
        ranks: as `--ranks`.
        tune: settings of the training that follows.
    """

    shape: str
    ranks: str
    tune: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """One data set, its dense network, and how it is made small.

    Args:
        name: of the task.
        base: its data and its dense network; there is no validation part, the last epoch counts.
        ratio: bytes of the dense model's tensors over bytes of the file.
        tune: settings of the training of the small file.
        ring: what is decomposed and trained first, if anything.
        fresh: what differs in the training of a fresh network of the file's form.
        how: of `compress_file`.
    """

    name: str
    base: Task
    ratio: float
    tune: dict[str, Any]
    ring: Ring | None = None
    fresh: dict[str, Any] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def wiring(self) -> Wiring:
        """How a file's parts form the classifier."""
        return Wiring(readout=self.base.readout)

    @property
    def extra_epochs(self) -> int:
        """Of training after dense."""
        return self.tune["epochs"] + (self.ring.tune["epochs"] if self.ring else 0)


def run_trained(task: Trained, data: DataSet, seed: int, kept: Kept) -> list[Row]:
    """Train all four and judge them on the test part."""

    def train(out: Path) -> None:
        base, settings = task.base, read_settings(task.base.dense | {"seed": seed})
        train_dense(data, out, hidden_size=base.hidden, readout=base.readout, settings=settings, resume=True)

    dense = kept.made("dense", train)
    start = ringed(task, task.ring, data, dense, seed, kept) if task.ring else dense
    small = kept.made("small", lambda out: compress(task, data, start, dense, out, seed))
    files = {
        "dense": dense,
        "dense, the same extra training": trained_on(task, data, dense, seed, kept),
        f"trcompress {task.ratio:g}x": small,
        "fresh, the same form": trained_afresh(task, data, small, dense, seed, kept),
    }
    return rows_of(files, data, task.wiring, seed, tensor_bytes(dense), "dense")


def trained_on(task: Trained, data: DataSet, dense: Path, seed: int, kept: Kept) -> Path:
    """Give the dense network the training that the compressed one gets, its own teacher."""

    def train(out: Path) -> None:
        start = write_artifact(kept.path("start"), base_artifact(open_model(dense)), overwrite=True)
        settings = read_settings(task.tune | {"seed": seed, "epochs": task.extra_epochs})
        finetune(start, data, out, settings=settings, teacher=dense, wiring=task.wiring, resume=True)

    return kept.made("more", train)


def ringed(task: Trained, ring: Ring, data: DataSet, dense: Path, seed: int, kept: Kept) -> Path:
    """Do what `trcompress decompose` and `trcompress finetune` do."""

    def train(out: Path) -> None:
        artifact = decompose_checkpoint(dense, Plan.of(ring.shape, ring.ranks), seed=seed)
        start = write_artifact(kept.path("cores"), artifact, overwrite=True)
        settings = read_settings(ring.tune | {"seed": seed})
        finetune(start, data, out, settings=settings, teacher=dense, wiring=task.wiring, resume=True)

    return kept.made("ring", train)


def compress(task: Trained, data: DataSet, start: Path, dense: Path, out: Path, seed: int) -> None:
    """Do what `trcompress compress START --target-ratio-model R --finetune DATA --teacher DENSE` does."""
    runnable = runnable_classifier(open_model(start), data, task.wiring, seed=seed)
    found = compress_and_train(
        runnable,
        data,
        out,
        target_bytes=int(runnable.tensor_bytes / task.ratio),
        teacher=dense,
        overwrite=True,
        settings=read_settings(task.tune | {"seed": seed}),
        wiring=task.wiring,
        seed=seed,
        **task.how,
    )
    if found.training is None:
        raise RuntimeError(f"{task.name}: {found.whole.nbytes:,} bytes is the least that was reached")


def trained_afresh(task: Trained, data: DataSet, small: Path, dense: Path, seed: int, kept: Kept) -> Path:
    """Train the file's form from random weights with the same teacher, for all epochs that it took to get there."""
    epochs = task.base.dense["epochs"] + task.extra_epochs
    settings = read_settings(task.tune | task.fresh | {"seed": seed, "epochs": epochs, "start": "scratch"})
    return kept.made(
        "fresh",
        lambda out: finetune(small, data, out, settings=settings, teacher=dense, wiring=task.wiring, resume=True),
    )


def rows_of(
    files: dict[str, Path], data: DataSet, wiring: Wiring | None, seed: int, dense_bytes: int, base: str
) -> list[Row]:
    """Measure every file on the test part; differences are to the one named."""
    found = {what: 100 * evaluate(path, data, wiring=wiring).right for what, path in files.items()}
    return [
        {
            "what": what,
            "seed": seed,
            "bytes": path.stat().st_size,
            "metric": found[what],
            "change": found[what] - found[base],
            "dense_bytes": dense_bytes,
            "units": next(iter(open_model(path).stacks.values()))[0].hidden_size,
            "ms": latency(path, data, wiring),
        }
        for what, path in files.items()
    ]


def tensor_bytes(path: Path) -> int:
    """Bytes of all tensors of a dense checkpoint."""
    return sum(one.nbytes for one in load_file(path).values())


def latency(path: Path, data: DataSet, wiring: Wiring | None = None) -> float:
    """Milliseconds that a file's network takes for one batch of 16 sequences."""
    network = read_classifier(path, wiring, classes=len(data.classes)).module.eval()
    x = torch.zeros(16, data.steps, data.input_size)
    return milliseconds(lambda: network(x))


@torch.no_grad()
def milliseconds(call: Callable[[], object], rounds: int = 15) -> float:
    """Median CPU time of a call."""
    call()
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        call()
        found.append(1000 * (time.process_time() - begun))
    return median(found)
