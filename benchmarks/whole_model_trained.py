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
from tempfile import TemporaryDirectory
from typing import Any

import torch

from trcompress.artifact.write import write_artifact
from trcompress.data import DataSet
from trcompress.model.plan import Plan
from trcompress.network.classifier import Wiring
from trcompress.network.model_file import open_model
from trcompress.network.read_classifier import read_classifier
from trcompress.passes.assemble import decompose_checkpoint
from trcompress.passes.runnable import runnable_classifier
from trcompress.passes.trained import compress_and_train
from trcompress.passes.whole import Whole
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
        sample: file of the data.
        options: how it is read and divided; there is no validation part, the last epoch counts.
        hidden: units of the dense LSTM.
        readout: what the linear head sees of its outputs.
        dense: settings of its training.
        ratio: bytes of the dense model's tensors over bytes of the file.
        tune: settings of the training of the small file.
        ring: what is decomposed and trained first, if anything.
        fresh: what differs in the training of a fresh network of the file's form.
        how: of `compress_file`.
    """

    name: str
    sample: str
    options: dict[str, Any]
    hidden: int
    readout: str
    dense: dict[str, Any]
    ratio: float
    tune: dict[str, Any]
    ring: Ring | None = None
    fresh: dict[str, Any] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def wiring(self) -> Wiring:
        """How a file's parts form the classifier."""
        return Wiring(readout=self.readout)

    @property
    def extra_epochs(self) -> int:
        """Of training after dense."""
        return self.tune["epochs"] + (self.ring.tune["epochs"] if self.ring else 0)


def run_trained(task: Trained, data: DataSet, seed: int) -> list[Row]:
    """Train all four and judge them on the test part."""
    with TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.safetensors"
        settings = read_settings(task.dense | {"seed": seed})
        train_dense(data, dense, hidden_size=task.hidden, readout=task.readout, settings=settings)
        files = {"dense": dense, "dense, the same extra training": trained_on(task, data, dense, seed)}
        start = dense if task.ring is None else ringed(task, task.ring, data, dense, seed)
        small, whole = compressed(task, data, start, dense, seed)
        fresh = trained_afresh(task, data, small, dense, seed)
        files |= {f"trcompress {task.ratio:g}x": small, "fresh, the same form": fresh}
        return rows_of(task, data, files, seed, whole)


def trained_on(task: Trained, data: DataSet, dense: Path, seed: int) -> Path:
    """Give the dense network the training that the compressed one gets, its own teacher."""
    start, out = dense.with_name("start.safetensors"), dense.with_name("more.safetensors")
    write_artifact(start, base_artifact(open_model(dense)))
    settings = read_settings(task.tune | {"seed": seed, "epochs": task.extra_epochs})
    return finetune(start, data, out, settings=settings, teacher=dense, wiring=task.wiring).out


def ringed(task: Trained, ring: Ring, data: DataSet, dense: Path, seed: int) -> Path:
    """Do what `trcompress decompose` and `trcompress finetune` do."""
    start, out = dense.with_name("cores.safetensors"), dense.with_name("ring.safetensors")
    write_artifact(start, decompose_checkpoint(dense, Plan.of(ring.shape, ring.ranks), seed=seed))
    settings = read_settings(ring.tune | {"seed": seed})
    return finetune(start, data, out, settings=settings, teacher=dense, wiring=task.wiring).out


def compressed(task: Trained, data: DataSet, start: Path, dense: Path, seed: int) -> tuple[Path, Whole]:
    """Do what `trcompress compress START --target-ratio-model R --calibrate DATA --finetune DATA` does."""
    runnable = runnable_classifier(open_model(start), data, task.wiring, seed=seed)
    found = compress_and_train(
        runnable,
        data,
        dense.with_name("small.safetensors"),
        target_bytes=int(runnable.tensor_bytes / task.ratio),
        teacher=dense,
        settings=read_settings(task.tune | {"seed": seed}),
        wiring=task.wiring,
        seed=seed,
        **task.how,
    )
    if found.training is None:
        raise RuntimeError(f"{task.name}: {found.whole.nbytes:,} bytes is the least that was reached")
    return found.training.out, found.whole


def trained_afresh(task: Trained, data: DataSet, small: Path, dense: Path, seed: int) -> Path:
    """Train the file's form from random weights with the same teacher, for all epochs that it took to get there."""
    epochs = task.dense["epochs"] + task.extra_epochs
    settings = read_settings(task.tune | task.fresh | {"seed": seed, "epochs": epochs, "start": "scratch"})
    out = small.with_name("fresh.safetensors")
    return finetune(small, data, out, settings=settings, teacher=dense, wiring=task.wiring).out


def rows_of(task: Trained, data: DataSet, files: dict[str, Path], seed: int, whole: Whole) -> list[Row]:
    """Measure every file on the test part."""
    rows: list[Row] = []
    for what, path in files.items():
        accuracy = 100 * evaluate(path, data, wiring=task.wiring).right
        row = {"what": what, "seed": seed, "bytes": path.stat().st_size, "metric": accuracy}
        change = accuracy - (rows[0]["metric"] if rows else accuracy)
        row |= {"change": change, "dense_bytes": whole.bytes_before, "structure": whole.structure}
        rows.append(row | {"ms": latency(path, data, task.wiring)})
    return rows


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
