"""Files as live networks with inputs: classifiers and stacks found in a file, networks of the user's own code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from trcompress.calibration.user_network import telling, user_batches
from trcompress.data import DataSet, Split, load_data
from trcompress.data.load import kind_of
from trcompress.data.user_batches import call_loader
from trcompress.errors import InputFileError, UsageError
from trcompress.network.batches import bytes_of
from trcompress.network.classifier import Wiring
from trcompress.network.from_file import FileNetwork
from trcompress.network.model_file import ModelFile, open_model
from trcompress.network.outputs import Outputs
from trcompress.network.read_calibration import read_calibration
from trcompress.network.user_model import load_user_model
from trcompress.passes.damage import KEPT_BYTES
from trcompress.passes.whole_file import RunnableFile, base_artifact
from trcompress.training.evaluate import classifier_for, fitted
from trcompress.util.progress import Progress, counted

MOST_SEQUENCES = 1_024
"""Calibration sequences that are read."""

SEQUENCES = 64
"""In a batch."""

LEAST_BATCHES = 8
"""Among which some are held out."""


def open_runnable(
    path: str | Path,
    data: str | Path | DataSet,
    wiring: Wiring | None = None,
    *,
    outputs: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RunnableFile:
    """Open a file as the network it is: the user's own, a classifier of the data, or stacks fed by its arrays.

    Args:
        path: a checkpoint or an artifact.
        data: inputs: a data set, a data file, or "package.module:loader", which runs the user's code.
        wiring: how the file's parts form a network, where the file does not tell.
        outputs: what is compared: "scores", "values" or "states"; None: what the data or the network says.
        data_options: of `trcompress.data.load_data`, or of the loader.
        reading: of `read_checkpoint`; what `wiring` says by default.
        seed: which sequences are read.
        progress: called with (what, fraction done) while clips are decoded.

    Raises:
        InputFileError, UsageError: a file cannot be read, or they do not fit each other.
    """
    wiring, options = wiring or Wiring(), dict(data_options or {})
    how = wiring.reading if reading is None else dict(reading)
    compared: dict[str, Any] = {"outputs": outputs, "reading": how}
    file, given = open_model(path, **how), data
    if wiring.model is not None and not isinstance(given, DataSet):
        return runnable_model(file, wiring.model, given, data_options=options, **compared)
    batches: DataSet | Iterable[Any] | None = None
    if not isinstance(given, DataSet) and kind_of(given) == "factory":
        batches, options = call_loader(str(given), options), {}
    try:
        data_set = given if batches is None else batches
        if isinstance(data_set, str | Path):
            data_set = load_data(data_set, progress=counted(progress), **options)
        if not isinstance(data_set, DataSet):
            raise UsageError("batches of a loader feed stacks: an artifact on batches is run with `model`")
        return runnable_classifier(file, data_set, wiring, seed=seed, **compared)
    except (InputFileError, UsageError):  # not a classifier of labelled sequences
        chosen = wiring.stacks or wiring.readout not in ("final", "every")  # stacks are compared at every step
        if file.artifact is not None or isinstance(given, DataSet) or chosen:
            raise
        fed: dict[str, Any] = {"data_options": options, **compared}
        return runnable_stacks(file, given if batches is None else batches, head=wiring.head, seed=seed, **fed)


def runnable_classifier(
    file: ModelFile,
    data: DataSet,
    wiring: Wiring | None = None,
    *,
    outputs: str | None = None,
    seed: int = 0,
    reading: Mapping[str, Any] | None = None,
) -> RunnableFile:
    """Build a file's classifier, with the training part of a data set as its inputs.

    Labels are not looked at. Where a data set has no training part, its validation or test part is taken.

    Args:
        file: a checkpoint or an artifact.
        data: the inputs.
        wiring: how the file's parts form a classifier, where the file does not tell.
        outputs: what is compared; None: class scores, or numbers where the data has numbers to be met.
        seed: which sequences are read.
        reading: how the file was read; see `read_checkpoint`.

    Raises:
        InputFileError, UsageError: the file holds no classifier for the data.
    """
    classifier = classifier_for(data, file, wiring)
    data = fitted(data, classifier)
    part = next(iter(data.splits.values()))
    note = f"calibrated on the {part.name} part of {data.name}"
    batches = list(_batches(part, seed))
    notes = (*classifier.notes, note)
    base = base_artifact(file, reading)
    given = outputs or ("values" if data.task == "regression" else "scores")
    return RunnableFile(base, classifier.module, classifier.keys, batches, _run, given, notes, opened=file.opened)


def runnable_model(
    file: ModelFile,
    spec: str,
    data: str | Path,
    *,
    outputs: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
) -> RunnableFile:
    """Build the user's own network with a file's tensors, on a data file or on batches of their own loader.

    Args:
        file: a checkpoint or an artifact.
        spec: "package.module:factory" of the network; runs the user's code.
        data: a data file, or "package.module:loader".
        outputs: what is compared, where it is not known; see `find_outputs`.
        data_options: of `trcompress.data.load_data`, or of the loader.
        reading: how the file was read; see `read_checkpoint`.

    Raises:
        InputFileError, UsageError: the file's tensors or the data are not the network's.
    """
    module = load_user_model(file, spec)
    batches, forward = user_batches(data, dict(data_options or {}))
    keys = {name: name for name in module.state_dict()}
    kept = list(islice(batches, MOST_SEQUENCES))
    base, notes = base_artifact(file, reading), (f"the network of {spec}",)
    return RunnableFile(base, module, keys, kept, telling(forward, spec), outputs, notes, opened=file.opened)


def runnable_stacks(
    file: ModelFile,
    data: str | Path | DataSet | Iterable[Any],
    *,
    head: str | None = None,
    outputs: str | None = None,
    seed: int = 0,
    data_options: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
) -> RunnableFile:
    """Build the stacks, embeddings and heads of a file, fed as arrays of a calibration file say.

    Args:
        file: a dense checkpoint.
        data: see `read_calibration`.
        head: key of the linear layer over the last stack; None finds it.
        outputs: what is compared; None: class scores only where the head has one row for each token.
        seed: which examples are held out.
        data_options: of `trcompress.data.load_data`.
        reading: how the file was read; see `read_checkpoint`.

    Raises:
        InputFileError, UsageError: the data does not fit the file.
    """
    given = read_calibration(data, file, **dict(data_options or {}))
    network = FileNetwork(file, given, "" if outputs == "states" else head)
    compared = network.outputs if outputs in (None, "states") else Outputs(str(outputs), network.outputs.select)
    fitted, held = given.divide(seed)
    batches = list(given.batches(fitted[:MOST_SEQUENCES], SEQUENCES))
    held_out = list(given.batches(held[:MOST_SEQUENCES], SEQUENCES))
    base, keys = base_artifact(file, reading), network.file_keys
    run = _run_stacks, compared, network.notes, held_out, file.opened
    return RunnableFile(base, network, keys, batches, *run)


def _run_stacks(module: nn.Module, batch: Any) -> Any:
    return module(batch)


def _batches(part: Split, seed: int) -> Iterable[tuple[Tensor, Tensor | None]]:
    """Draw sequences; of wide ones fewer, and fewer in a batch, so that some batches can be held out."""
    each = bytes_of(part.batch(np.zeros(1, dtype=np.int64))[0])
    most = min(MOST_SEQUENCES, max(LEAST_BATCHES, KEPT_BYTES // each))
    size = min(SEQUENCES, max(1, most // LEAST_BATCHES))
    order = np.random.default_rng(seed).permutation(len(part))[:most]
    if len(order) <= size:  # a small part would be one batch, and nothing held out
        size = max(1, len(order) // LEAST_BATCHES)
    for start in range(0, len(order), size):
        x, _, lengths = part.batch(np.sort(order[start : start + size]))
        yield x, lengths


def _run(module: nn.Module, batch: tuple[Tensor, Tensor | None]) -> Any:
    return module(*batch)
