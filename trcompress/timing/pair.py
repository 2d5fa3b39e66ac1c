"""An artifact and its dense original, opened and held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.checkpoint import Checkpoint, is_artifact, read_checkpoint
from trcompress.errors import InputFileError, nearest
from trcompress.model.layer import Layer
from trcompress.network.model_file import ModelFile, of_artifact, of_checkpoint

COMPARED = ("kind", "input_size", "hidden_size", "proj_size")


@dataclass(frozen=True)
class Pair:
    """Two files of the same layers.

    Args:
        compressed: the artifact.
        dense: the checkpoint.
        file_bytes: of both, "baseline" and "artifact".
        tensor_bytes: of the model tensors in both.
        notes: what a reader of figures on both should know.
    """

    compressed: ModelFile
    dense: ModelFile
    file_bytes: dict[str, int]
    tensor_bytes: dict[str, int]
    notes: tuple[str, ...]

    @property
    def stacks(self) -> list[str]:
        """Names of the recurrent stacks that are not the dense model's own."""
        return _compressed_stacks(self.compressed)


def open_pair(artifact: Path, baseline: Path, **reading: Any) -> Pair:
    """Open both files.

    Args:
        artifact: the compressed model.
        baseline: the dense checkpoint.
        **reading: how to read the baseline; see `read_checkpoint`.

    Raises:
        InputFileError: a file cannot be read, a layer is not the one that its shapes suggest, the artifact is not
            one, the baseline is one, or its layers are not the artifact's: all differences are named.
    """
    if is_artifact(baseline):
        source = read_artifact(baseline).header.source
        hint = "" if source is None else f", {source.file}"
        raise InputFileError(
            f"the baseline must be the dense checkpoint: {baseline} is an artifact itself; "
            f"give the file it was made from{hint}"
        )
    read, checkpoint = read_artifact(artifact), read_checkpoint(baseline, **reading)
    compressed, dense = of_artifact(read, artifact), of_checkpoint(checkpoint, baseline)
    dense.refuse_unknown()
    faults = [fault for name in _compressed_stacks(compressed) for fault in _differences(name, compressed, dense)]
    if faults:
        listed = "\n  ".join(faults)
        raise InputFileError(f"the baseline {baseline} is not the dense model of {artifact}:\n  {listed}")
    return Pair(
        compressed,
        dense,
        {"baseline": checkpoint.size_bytes, "artifact": artifact.stat().st_size},
        {"baseline": checkpoint.tensor_bytes, "artifact": read.tensor_bytes},
        tuple(_notes(compressed, read, checkpoint)),
    )


def _notes(compressed: ModelFile, artifact: Artifact, checkpoint: Checkpoint) -> list[str]:
    notes = ["the compressed recurrent stacks alone are timed, in float32, on random inputs"]
    done = _compressed_stacks(compressed)
    rest = [name or "(root)" for name in compressed.stacks if name not in done]
    if rest:
        notes.append(f"not compressed, not timed: {', '.join(rest)}")
    source = artifact.header.source
    if source is not None and source.sha256 != checkpoint.sha256:
        notes.append(f"the baseline is not the file that was compressed ({source.file}), but has the same layers")
    return notes


def _compressed_stacks(file: ModelFile) -> list[str]:
    """Stacks with a ring, with tensors in few bits, or of other sizes."""
    touched = set(file.plans)
    if file.artifact:
        touched |= {*file.artifact.stored, *file.artifact.header.original}
    keys = {name: {key for one in layers for key in one.keys.values()} for name, layers in file.stacks.items()}
    return [name for name, own in keys.items() if own & touched]


def _differences(name: str, compressed: ModelFile, dense: ModelFile) -> list[str]:
    """Say in what a stack of the baseline differs from the artifact's."""
    label = name or "(root)"
    if name not in dense.stacks:
        known = [one or "(root)" for one in dense.stacks]
        return [
            f"it has no stack {label}{nearest(label, known)}; its recurrent stacks: {', '.join(known) or 'none'}"
        ]
    ours, theirs = (_layers(file.stacks[name]) for file in (compressed, dense))
    faults = [f"{label}: layer {place} is missing" for place in ours if place not in theirs]
    faults += [f"{label}: layer {place} is not in the artifact" for place in theirs if place not in ours]
    resized = compressed.artifact.header.original if compressed.artifact else {}
    for place in ours.keys() & theirs.keys():
        if resized.keys() & set(ours[place].keys.values()):
            continue  # a pass has changed its sizes
        pairs = {field: (getattr(ours[place], field), getattr(theirs[place], field)) for field in COMPARED}
        faults += [
            f"{label}: {field} of layer {place} is {there}, the artifact has {here}"
            for field, (here, there) in pairs.items()
            if here != there
        ]
    return faults


def _layers(layers: Sequence[Layer]) -> Mapping[str, Layer]:
    return {f"{one.index}{' (reverse)' if one.reverse else ''}": one for one in layers}
