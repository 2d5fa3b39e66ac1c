"""Safetensors files: a JSON header, then raw values. Read here without loading any of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import torch

from trcompress.checkpoint.limits import DamageError, in_short
from trcompress.checkpoint.stored import (
    MAX_DIMS,
    FileBytes,
    RawStorage,
    StoredTensor,
    UnreadableTensor,
    contiguous_stride,
)
from trcompress.util.bounded_json import read_json

MAX_HEADER_BYTES = 1 << 25
MAX_TENSORS = 100_000
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
"""What safetensors calls types, in the order in which it lays tensors out, backwards."""


def looks_like_safetensors(head: bytes) -> bool:
    """Return True where the first bytes of a file may be a safetensors header: its length, then `{`."""
    return len(head) >= 9 and head[8:9] == b"{"


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor | UnreadableTensor], dict[str, str]]:
    """Read the names, shapes and places of all tensors, and the metadata.

    Raises:
        DamageError: truncated, or what the header says cannot be true.
    """
    header, data_at = _header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DamageError("its metadata is not a map from text to text")
    size = path.stat().st_size - data_at
    tensors: dict[str, StoredTensor | UnreadableTensor] = {}
    ends: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        begin, end = _offsets(name, entry, size)
        ends.append((begin, end, name))
        tensors[name] = _tensor(name, entry, FileBytes(path, data_at + begin, end - begin))
    _check_no_gaps(ends, size)
    return tensors, metadata


def check_safetensors(path: Path) -> None:
    """Bound what the header may ask for, before another reader opens the file.

    Raises:
        DamageError: truncated, too many tensors, or no valid JSON.
    """
    _header(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata alone; empty for a file that is no readable safetensors file."""
    try:
        metadata = _header(path)[0].get("__metadata__", {})
    except (DamageError, OSError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if length > MAX_HEADER_BYTES:
            raise DamageError(f"its header declares {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
        if not length or 8 + length > size:
            raise DamageError(f"it is truncated: a header of {length:,} bytes does not fit in {size:,}")
        text = stream.read(length)
    if (count := text.count(b'"data_offsets"')) > MAX_TENSORS:  # before they are parsed: each takes 2 kB then
        raise DamageError(f"its header lists {count:,} tensors; at most {MAX_TENSORS:,} are read")
    try:
        header = read_json(text.decode("utf-8"), object_pairs_hook=_unique)
    except ValueError as error:
        raise DamageError(f"its header is not valid JSON ({in_short(error)})") from error
    if not isinstance(header, dict):
        raise DamageError("its header is not a JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _offsets(name: str, entry: Any, size: int) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(number) is not int for number in offsets):
        raise DamageError(f"its header does not say where tensor {name!r:.100} lies")
    begin, end = offsets
    if not 0 <= begin <= end:
        raise DamageError(f"its header puts tensor {name!r:.100} at bytes {begin} to {end}")
    if end > size:
        raise DamageError(f"it is truncated: tensor {name!r:.100} ends at byte {end:,} of {size:,}")
    return begin, end


def _tensor(name: str, entry: dict[str, Any], source: FileBytes) -> StoredTensor | UnreadableTensor:
    kind, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(shape, list) or any(type(number) is not int or number < 0 for number in shape):
        raise DamageError(f"its header gives tensor {name!r:.100} no valid shape")
    if len(shape) > MAX_DIMS:
        raise DamageError(
            f"its header gives tensor {name!r:.100} {len(shape):,} dimensions; at most {MAX_DIMS} are read"
        )
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        return UnreadableTensor(f"a tensor of type {kind!r:.20}")
    tensor = StoredTensor(
        RawStorage(dtype, source.nbytes // dtype.itemsize, source),
        dtype,
        tuple(shape),
        contiguous_stride(tuple(shape)),
    )
    if tensor.numel * dtype.itemsize != source.nbytes:
        raise DamageError(
            f"its tensor {name!r:.100} declares the shape {tuple(shape)} but has {source.nbytes:,} bytes"
        )
    return tensor


def _check_no_gaps(ends: list[tuple[int, int, str]], size: int) -> None:
    expected = 0
    for begin, end, name in sorted(ends):
        if begin != expected:
            raise DamageError(f"its tensor {name!r:.100} begins at byte {begin:,} where {expected:,} is expected")
        expected = end
    if expected != size:
        raise DamageError(f"its tensors end at byte {expected:,}, the file at {size:,}")
