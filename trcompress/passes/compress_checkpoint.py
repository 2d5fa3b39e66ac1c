"""`trcompress.compress`: a file whose whole size meets a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trcompress.artifact.file import Artifact
from trcompress.artifact.write import write_artifact
from trcompress.data import DataSet
from trcompress.network.classifier import Wiring
from trcompress.passes.runnable import open_runnable
from trcompress.passes.whole import PASSES, STORED_AS
from trcompress.passes.whole_file import compress_file
from trcompress.util.files import check_output
from trcompress.util.progress import Progress


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
    wiring: Wiring | None = None,
    outputs: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    sidecar: bool = False,
    command: str = "",
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
        rank: that these matrices get, where it saves values; by default several are tried.
        pack: entropy-code what is stored in few bits.
        wiring: how the file's parts form a network, where the file does not tell.
        outputs: what they are: class "scores", "values" or hidden "states" instead; None: what the data says.
        data_options: how to read `calibrate`.
        seed: of everything random.
        overwrite: replace `out`.
        sidecar: write the history of a small file beside it.
        command: how the user asked for this, kept in the lineage.
        progress: called with (what, fraction done).

    Raises:
        UsageError: not exactly one budget, or one that cannot be met.
        InputFileError: a file cannot be read, or they do not fit each other.
        OutputFileError: `out` exists or cannot be written.

    Example:
        >>> compress("model.pt", "small.safetensors", calibrate="data.npz", target_size=500_000)  # doctest: +SKIP
        Artifact(...)
    """
    if out is not None:
        check_output(out, overwrite=overwrite, keep=(checkpoint, calibrate))
    read: dict[str, Any] = {"outputs": outputs, "data_options": data_options, "seed": seed, "progress": progress}
    runnable = open_runnable(checkpoint, calibrate, wiring, **read)
    target = runnable.target_bytes(target_size, target_ratio_model)
    given: dict[str, Any] = {"passes": tuple(passes), "storage": tuple(storage), "matrices": tuple(matrices)}
    given |= {"units": units, "rank": rank}
    artifact, whole = compress_file(
        runnable, target_bytes=target, command=command, seed=seed, packed=pack, progress=progress, **given
    )
    whole.require_reached()
    if out is not None:
        artifact.path = write_artifact(out, artifact, overwrite=overwrite, sidecar=sidecar)
    return artifact
