"""Writing an artifact: to a temporary file, read back from disk and held against what was meant, then renamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.load import load
from trcompress.artifact.packing import PACKED_KEY, Streams, pack
from trcompress.artifact.sidecar import sidecar_path, write_sidecar
from trcompress.artifact.storage import Stored
from trcompress.artifact.tensor_file import save_tensors, tensors_bytes
from trcompress.checkpoint.finite import count_nonfinite
from trcompress.errors import InputFileError, OutputFileError, TrcompressError, UsageError
from trcompress.model.header import METADATA_KEY, Header
from trcompress.util.files import atomic_path, check_output

_BLOCK_BYTES = 1 << 24
COMPACT_BELOW = 20_000
"""Bytes of tensors below which a header of version 2 is compact."""


def write_artifact(
    path: str | Path,
    artifact: Artifact,
    *,
    overwrite: bool = False,
    sidecar: bool = False,
    check: Callable[[Artifact], None] | None = None,
) -> Path:
    """Write an artifact: all of it, or nothing.

    What was written is read back from disk before it takes its name: tensors are compared bit by bit, and the
    layers are built.

    Where tensors are stored in few bits, or passes are recorded, and the file is small, its header is compact:
    without history.

    Args:
        path: the output.
        artifact: the model.
        overwrite: replace an existing file.
        sidecar: write the whole header beside it as well, to `<path>.json`, where `read_artifact` finds it.
        check: called with the artifact as it was read back; what it raises keeps the file from being renamed.

    Raises:
        InputFileError: a tensor holds NaN or Inf, and nobody said that it may.
        OutputFileError: the path exists (without `overwrite`), or cannot be written.
    """
    path = check_output(path, overwrite=overwrite)
    if sidecar:
        check_output(sidecar_path(path), overwrite=overwrite)
    refuse_not_finite(artifact)
    tensors, header = _as_stored(artifact)
    with atomic_path(path, overwrite=overwrite) as temporary:
        save_tensors(tensors, temporary, _metadata(tensors, header))
        _check_written(temporary, artifact, header, check)
    if sidecar:
        write_sidecar(path, header)
    return path


def file_bytes(artifact: Artifact) -> int:
    """Return how large the file will be, to the byte, without writing it."""
    tensors, header = _as_stored(artifact)
    return tensors_bytes(tensors, _metadata(tensors, header))


def _metadata(tensors: Mapping[str, Tensor], header: Header) -> dict[str, str]:
    compact = _is_compact(header, sum(one.nbytes for one in tensors.values()))
    return {"format": "pt", METADATA_KEY: header.to_json(compact=compact)}


def _is_compact(header: Header, size: int) -> bool:
    """Whether a file of so many bytes of tensors leaves its history out: those of version 1 keep it."""
    return bool(header.storage or header.passes) and size < COMPACT_BELOW


def _as_stored(artifact: Artifact) -> tuple[dict[str, Tensor], Header]:
    """The tensors that the file holds, and a header that says how."""
    once = {key: one for key, one in artifact.tensors.items() if key not in artifact.aliases}
    stored = {key: _current(one, once[key], artifact.packed) for key, one in artifact.stored.items() if key in once}
    records = {key: (one.kind, str(one.dtype).removeprefix("torch."), one.shape) for key, one in stored.items()}
    tensors = {key: one for key, one in once.items() if key not in stored}
    parts = {name: part for key, one in stored.items() for name, part in one.named(key).items()}
    if clash := sorted(set(parts) & set(tensors)):
        raise UsageError(f"a tensor's name must not be that of a stored part: {', '.join(clash[:5])}; rename it")
    streams: Streams = ()
    if artifact.packed and parts:
        whole, streams = pack(parts, records)
        parts = {PACKED_KEY: whole}
    return tensors | parts, artifact.header.model_copy(update={"storage": records, "packed": streams})


def _current(stored: Stored, tensor: Tensor, packed: bool) -> Stored:
    """What is stored, rounded again where the values have changed."""
    same = stored.shape == tuple(tensor.shape) and torch.equal(
        stored.expand().to(tensor.dtype), tensor.detach().cpu()
    )
    return stored if same else stored.rounding(packed).of(tensor.detach().cpu())


def refuse_not_finite(artifact: Artifact) -> None:
    """Refuse to write NaN or Inf, but for tensors of which the user said so.

    Raises:
        InputFileError: all such tensors are named.
    """
    allowed = artifact.allowed_nonfinite
    bad = [
        key
        for key, tensor in artifact.tensors.items()
        if key not in allowed and (tensor.is_floating_point() or tensor.is_complex()) and not _is_finite(tensor)
    ]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputFileError(
            f"what is written must be finite: {', '.join(bad[:5])}{more} hold NaN or Inf; the training "
            "diverged, or values are too large for their dtype; name what is meant so in `allow_nonfinite`"
        )


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_sparse or not count_nonfinite(tensor)


def _check_written(
    path: Path, artifact: Artifact, header: Header, check: Callable[[Artifact], None] | None
) -> None:
    """Read the file back, and hold it against what was meant.

    Raises:
        OutputFileError: they differ, or the file does not load.
    """
    try:
        read = read_artifact(path)
        _build(read)
    except TrcompressError as fault:
        raise OutputFileError(f"what was written does not load, so it is not kept: {fault}") from fault
    different = sorted(set(read.tensors) ^ set(artifact.tensors))
    for key in set(read.tensors) & set(artifact.tensors):
        meant = read.stored[key].expand() if key in read.stored else artifact.tensors[key]
        if not _same_bits(read.tensors[key], meant):
            different.append(key)
    if different or [one.name for one in read.header.weights] != [one.name for one in header.weights]:
        named = ", ".join(different[:5]) or "the header"
        raise OutputFileError(f"what was written reads back differently, so it is not kept: {named}")
    if check is not None:
        check(read)


def _build(artifact: Artifact) -> None:
    """Build the layers whose tensors all are in the file; a wrapper of the user's may hold the others."""
    there = {*artifact.tensors, *artifact.weight_plans()}
    broken = {one.stack for one in artifact.header.layers if not set(one.keys.values()) <= there}
    layers = tuple(one for one in artifact.header.layers if one.stack not in broken)
    keys = {key for one in layers for key in one.keys.values()}
    weights = tuple(one for one in artifact.header.weights if one.name in keys)
    load(Artifact(artifact.tensors, artifact.header.model_copy(update={"layers": layers, "weights": weights})))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    other = other.detach().cpu().contiguous()
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    pairs = zip(*(whole.reshape(-1).view(torch.uint8).split(_BLOCK_BYTES) for whole in (one, other)), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)
