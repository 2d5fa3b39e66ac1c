"""One budget for the whole file where there is training: compressed, then trained by the dense network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.write import COMPACT_BELOW, write_artifact
from trcompress.data import DataSet
from trcompress.network.classifier import Wiring
from trcompress.passes.whole import Whole
from trcompress.passes.whole_file import RunnableFile, compress_file
from trcompress.training.display import Display
from trcompress.training.finetune import FinetuneResult, finetune
from trcompress.training.job import OutputPaths, describe_run
from trcompress.training.run_state import STATE_FILE
from trcompress.training.settings import FinetuneSettings
from trcompress.util.folders import work_folder

TRAINING = FinetuneSettings(epochs=10)
"""Where nothing else is said."""

METRICS_BYTES = 1_200
"""Of figures and hashes that a header holds of a training: room that is left for them; `finetune` counts them."""


@dataclass(frozen=True)
class TrainedFile:
    """A file made small and trained.

    Args:
        whole: what was done before training.
        artifact: the trained file; where the target was not reached, what comes nearest, not written.
        training: what training came to; None where the target was not reached.
    """

    whole: Whole
    artifact: Artifact
    training: FinetuneResult | None


def compress_and_train(
    runnable: RunnableFile,
    data: DataSet,
    out: str | Path,
    *,
    target_bytes: int,
    teacher: str | Path,
    settings: FinetuneSettings | None = None,
    wiring: Wiring | None = None,
    overwrite: bool = False,
    sidecar: bool = False,
    command: str = "",
    display: Display | None = None,
    **how: Any,
) -> TrainedFile:
    """Make a file's network fit a file of so many bytes, train it aware of its rounding, and write it.

    Args:
        runnable: the file, its network and its inputs; the network is changed in place.
        data: to train on.
        out: the trained artifact.
        target_bytes: of the whole file.
        teacher: the file that the network came from; its scores are learned beside the labels.
        settings: of the training; `TRAINING` by default.
        wiring: how the file's parts form a classifier, where the file does not tell.
        overwrite: replace `out`.
        sidecar: write the history of a small file beside it.
        command: how the user asked for this, kept in the lineage.
        display: what is shown of the training.
        how: of `compress_file`: `packed`, `passes`, `storage`, `matrices`, `seed`, `progress`.

    Raises:
        UsageError, InputFileError, OutputFileError, RunInterruptedError: see `compress_file` and `finetune`.
    """
    settings = settings or TRAINING
    how |= {"target_bytes": target_bytes, "settings": settings, "wiring": wiring, "command": command}
    artifact, whole = compress_for_training(runnable, data, **how)
    if not whole.reached:
        return TrainedFile(whole, artifact, None)
    with work_folder(Path(out)) as folder, _without_state(Path(out)):
        start = folder / "start.safetensors"
        write_artifact(start, artifact, sidecar=sidecar, check=runnable.refuse_changed)
        trained = finetune(
            start,
            data,
            out,
            teacher=teacher,
            settings=settings,
            most_bytes=target_bytes,
            wiring=wiring,
            overwrite=overwrite,
            command=command,
            display=display,
        )
    return TrainedFile(whole, read_artifact(trained.out), trained)


def compress_for_training(
    runnable: RunnableFile,
    data: DataSet,
    *,
    target_bytes: int,
    settings: FinetuneSettings,
    wiring: Wiring | None = None,
    command: str = "",
    **how: Any,
) -> tuple[Artifact, Whole]:
    """Make a file's network fit, with room for the record of the training that is to follow.

    Args:
        runnable: see `compress_and_train`, as for the others; the network is changed in place.
        data: what it will be trained on.
        target_bytes: of the whole file, after training.
        settings: of that training.
        wiring: how the file's parts form a classifier.
        command: how the user asked for this.
        how: of `compress_file`.
    """
    room = target_bytes - _history_bytes(settings, data, wiring, command, target_bytes)
    return compress_file(runnable, target_bytes=room, command=command, trained=True, **how)


@contextmanager
def _without_state(out: Path) -> Iterator[None]:
    """Leave no state of a run that ends early: what it began from is gone, so nothing can go on from there."""
    try:
        yield
    except BaseException:
        (OutputPaths(out).run / STATE_FILE).unlink(missing_ok=True)
        raise


def _history_bytes(
    settings: FinetuneSettings, data: DataSet, wiring: Wiring | None, command: str, target_bytes: int
) -> int:
    """What the record of the training takes in the header of a file that is large enough to hold it."""
    if target_bytes < COMPACT_BELOW:
        return 0
    told = describe_run(settings, data, wiring)
    return len(json.dumps(told)) + len(json.dumps(command)) + METRICS_BYTES + len(json.dumps(data.name))
