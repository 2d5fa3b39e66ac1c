"""Writing an artifact: to a temporary file, read back from disk and held against what was meant, then renamed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.load import load
from trcompress.artifact.packing import PACKED_KEY, Streams, pack
from trcompress.artifact.sidecar import write_sidecar
from trcompress.artifact.storage import Stored
from trcompress.checkpoint.finite import count_nonfinite
from trcompress.checkpoint.safetensors_file import DTYPES
from trcompress.errors import InputFileError, OutputFileError, TrcompressError, UsageError
from trcompress.model.header import METADATA_KEY, Header
from trcompress.util.files import atomic_path, check_output, system_error

_BLOCK_BYTES = 1 << 24
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_ORDER = list(_CODES)
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
    refuse_not_finite(artifact)
    tensors, header = _as_stored(artifact)
    tensors = _own_storages(tensors)
    compact = _is_compact(header, sum(one.nbytes for one in tensors.values()))
    metadata = {"format": "pt", METADATA_KEY: header.to_json(compact=compact)}
    with atomic_path(path, overwrite=overwrite) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise system_error(error) from error
        _sort_metadata(temporary)
        _check_written(temporary, artifact, header, check)
    if sidecar:
        write_sidecar(path, header)
    return path


def _sort_metadata(path: Path) -> None:
    """Put the metadata in the order of its keys: safetensors writes another one each time. No length changes."""
    with path.open("r+b") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        table = json.loads(stream.read(size))
        table = {"__metadata__": dict(sorted(table.pop("__metadata__").items()))} | table
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            stream.seek(8)
            stream.write(text.ljust(size))


def file_bytes(artifact: Artifact) -> int:
    """Return how large the file will be, to the byte, without writing it."""
    tensors, header = _as_stored(artifact)
    size = sum(one.nbytes for one in tensors.values())
    compact = _is_compact(header, size)
    about = {"__metadata__": {"format": "pt", METADATA_KEY: header.to_json(compact=compact)}}
    table = len(json.dumps(about | _entries(tensors), separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + (table + 7) // 8 * 8 + size


def _is_compact(header: Header, size: int) -> bool:
    """Whether a file of so many bytes of tensors leaves its history out: those of version 1 keep it."""
    return bool(header.storage or header.passes) and size < COMPACT_BELOW


def _entries(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The table of contents as safetensors writes it: wide types first, then by name."""
    entries, start = {}, 0
    for key, one in sorted(tensors.items(), key=lambda pair: (-_ORDER.index(pair[1].dtype), pair[0])):
        stop = start + one.nbytes
        entries[key] = {"dtype": _CODES[one.dtype], "shape": list(one.shape), "data_offsets": [start, stop]}
        start = stop
    return entries


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


def _own_storages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor contiguous memory of its own, as safetensors requires; copies only where shared."""
    seen: set[int] = set()
    own = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        own[key] = tensor if alone else tensor.clone()
        seen.add(storage.data_ptr())
    return own


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
