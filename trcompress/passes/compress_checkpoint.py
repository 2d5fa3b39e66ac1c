"""`trcompress.compress`: a file whose whole size meets a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trcompress.artifact.file import Artifact
from trcompress.artifact.sidecar import sidecar_path
from trcompress.artifact.write import write_artifact
from trcompress.data import DataSet, load_data
from trcompress.network.classifier import Wiring
from trcompress.network.model_file import check_reading
from trcompress.passes.checks import check_file_options
from trcompress.passes.runnable import open_runnable
from trcompress.passes.trained import TRAINING, compress_and_train, compress_for_training
from trcompress.passes.whole import PASSES, STORED_AS, Whole
from trcompress.passes.whole_file import compress_file
from trcompress.training.display import Display
from trcompress.training.finetune import FinetuneResult
from trcompress.training.settings import FinetuneSettings, combined
from trcompress.util.arguments import changed_from_default, defaults_of
from trcompress.util.files import check_output
from trcompress.util.progress import Progress, counted


@dataclass(frozen=True)
class CompressedFile:
    """What a budget for a whole file came to.

    Args:
        whole: what was done before any training, and whether the budget was met.
        artifact: the file; where the budget was not met, what comes nearest, not written.
        training: what training came to, where that was asked for.
    """

    whole: Whole
    artifact: Artifact
    training: FinetuneResult | None = None


def compress(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    calibrate: str | Path | DataSet,
    target_size: int | str | None = None,
    target_ratio_model: float | None = None,
    passes: Sequence[str] = PASSES,
    storage: Sequence[str] = STORED_AS,
    matrices: Sequence[str] = ("ih",),
    units: int | None = None,
    rank: int | None = None,
    pack: bool = False,
    finetune: str | Path | DataSet | None = None,
    teacher: str | Path | None = None,
    settings: FinetuneSettings | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    wiring: Wiring | None = None,
    outputs: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    sidecar: bool = False,
    command: str = "",
    display: Display | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Make a whole file as small as asked, with the least damage to what the network gives.

    Args:
        checkpoint: a dense checkpoint, or an artifact.
        out: where to write the artifact; None keeps it in memory.
        calibrate: inputs of the network: a data set, a data file, or "package.module:loader" of batches, which
            runs the user's code; labels are not looked at.
        target_size: bytes that the file may have, as a number or in words ("500KB").
        target_ratio_model: so many times fewer bytes than the model's tensors have, instead.
        passes: what may be done, of `trcompress.passes.whole.PASSES`.
        storage: how tensors may be stored: keys of `trcompress.artifact.storage.STORAGE`.
        matrices: which may get a lower rank: "ih", "hh".
        units: hidden units that every recurrent layer with more keeps; by default several numbers are tried.
        rank: that these matrices get, where it saves values; where a ring loses units, its output cores may have as
            many values as two factors of this rank. By default several are tried.
        pack: entropy-code what is stored in few bits.
        finetune: data with labels, as `trcompress.finetune` takes it; "package.module:factory" runs the user's
            code. The file is then trained, aware of its rounding, and may lose units first. Needs `out`.
        teacher: the file whose scores training learns beside the labels; the checkpoint by default.
        settings: of the training, as one object; 10 epochs, else as in `trcompress.finetune`, by default.
        epochs: of the training.
        batch_size: of the training.
        lr: peak learning rate of the training.
        wiring: how the file's parts form a network, where the file does not tell.
        outputs: what they are: class "scores", "values" or hidden "states" instead; None: what the data says.
        data_options: how to read `calibrate` and `finetune`.
        reading: how to read a checkpoint, see `read_checkpoint`; what `wiring` says by default.
        seed: of everything random; of the training, where no `settings` are given.
        overwrite: replace `out`.
        sidecar: write the history of a small file beside it.
        command: how the user asked for this, kept in the lineage.
        display: what is shown of the training.
        progress: called with (what, fraction done).

    Raises:
        UsageError: not exactly one budget, one that cannot be met, or an option that would not be used.
        InputFileError: a file cannot be read, or they do not fit each other.
        OutputFileError: `out` exists or cannot be written.

    Example:
        >>> compress("model.pt", "small.safetensors", calibrate="data.npz", target_size=500_000)  # doctest: +SKIP
        Artifact(...)
    """
    found = compressed_file(**locals())
    found.whole.require_reached()
    return found.artifact


def compressed_file(
    checkpoint: str | Path, out: str | Path | None = None, *, planned: bool = False, **given: Any
) -> CompressedFile:
    """Do what `compress` does, and tell of a budget that was not met instead of raising.

    Args:
        checkpoint: see `compress`.
        out: see `compress`.
        planned: stop before the training that `finetune` asks for, so that it needs no `out`.
        given: other arguments of `compress`.
    """
    given = defaults_of(compress) | given
    wiring, data, teacher = given["wiring"], given["finetune"], given["teacher"]
    check_file_options(changed_from_default(compress, given | {"out": checkpoint if planned else out}))
    reading = (wiring or Wiring()).reading if given["reading"] is None else dict(given["reading"])
    check_reading(reading, checkpoint, teacher)
    check_reading({name: reading.get(name) for name in ("drop", "allow_nonfinite")}, checkpoint)  # not of a teacher
    if out is not None:
        for path in (out, sidecar_path(Path(out))) if given["sidecar"] else (out,):
            check_output(path, overwrite=given["overwrite"], keep=(checkpoint, given["calibrate"], data, teacher))
    same = {name: given[name] for name in ("outputs", "data_options", "seed", "progress")}
    runnable = open_runnable(checkpoint, given["calibrate"], wiring, reading=reading, **same)
    target = runnable.target_bytes(given["target_size"], given["target_ratio_model"])
    names = ("passes", "storage", "matrices", "units", "rank", "seed", "command", "progress")
    how = {name: given[name] for name in names} | {"target_bytes": target, "packed": given["pack"]}
    kept = {name: given[name] for name in ("overwrite", "sidecar")}
    if data is None:
        artifact, whole = compress_file(runnable, **how)
        if whole.reached and out is not None:
            artifact.path = write_artifact(out, artifact, **kept, check=runnable.refuse_changed)
        return CompressedFile(whole, artifact)
    data = _training_data(data, given)
    how |= {"settings": _settings(given), "wiring": wiring}
    if out is None:
        artifact, whole = compress_for_training(runnable, data, **how)
        return CompressedFile(whole, artifact)
    taught = {"teacher": teacher or checkpoint, "display": given["display"]}
    found = compress_and_train(runnable, data, out, **taught, **kept, **how)
    return CompressedFile(found.whole, found.artifact, found.training)


def _training_data(data: str | Path | DataSet, given: Mapping[str, Any]) -> DataSet:
    if isinstance(data, DataSet):
        return data
    options = {"allow_code": True, **(given["data_options"] or {})}
    return load_data(data, progress=counted(given["progress"]), **options)


def _settings(given: Mapping[str, Any]) -> FinetuneSettings:
    start = given["settings"] or TRAINING.model_copy(update={"seed": given["seed"]})
    return combined(start, {name: given[name] for name in ("epochs", "batch_size", "lr")})
