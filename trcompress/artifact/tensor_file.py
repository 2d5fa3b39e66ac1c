"""Writing tensors: safetensors files, byte by byte as that library writes them, and files of `torch.save`.

safetensors' own writer works in a file of another name beside the output, where a kill leaves it, and ends the
process where memory is short; PyTorch's makes an error of its own of a full disk, or ends the process too.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trcompress.checkpoint.safetensors_file import DTYPES
from trcompress.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_ORDER = list(_CODES)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; tensors may share memory.

    Args:
        tensors: of any device, dense.
        path: the file, as `atomic_path` gives it.
        metadata: for its header, sorted.

    Raises:
        UsageError: safetensors has no code for a dtype.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.safetensors"
        >>> save_tensors({"b": torch.zeros(2), "a": torch.ones(3).half()}, path, {"format": "pt"})
        >>> path.stat().st_size == tensors_bytes({"b": torch.zeros(2), "a": torch.ones(3).half()}, {"format": "pt"})
        True
    """
    with path.open("wb") as stream:
        stream.write(_header(tensors, metadata))
        for key in _in_order(tensors):
            values = tensors[key].detach().cpu().contiguous().reshape(-1)
            stream.write(values.view(torch.uint8).numpy().data)


def tensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Return how large the file will be, to the byte, without writing it."""
    return len(_header(tensors, metadata)) + sum(one.nbytes for one in tensors.values())


def _in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Wide types first, then by name."""
    for key, one in tensors.items():
        if one.dtype not in _CODES:
            raise UsageError(f"safetensors holds no {one.dtype}: {key} is one; convert it, or leave it out")
    return sorted(tensors, key=lambda key: (-_ORDER.index(tensors[key].dtype), key))


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length and table of contents, filled up to a multiple of 8 bytes."""
    table: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for key in _in_order(tensors):
        one = tensors[key]
        stop = start + one.nbytes
        table[key] = {"dtype": _CODES[one.dtype], "shape": list(one.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    size = (len(text) + 7) // 8 * 8
    return struct.pack("<Q", size) + text.ljust(size)


def save_pickled(content: Any, path: Path) -> None:
    """Write a file of `torch.save`.

    Raises:
        OSError: the file cannot be written.
    """
    with _Patient(path, "w") as stream:
        torch.save(content, stream)
        if stream.fault is not None:
            raise stream.fault


class _Patient(io.FileIO):
    """Keeps its first fault for later, when PyTorch's writer has come to its end."""

    fault: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write until something fails, then pretend."""
        values = memoryview(data).cast("B")
        done = 0
        while self.fault is None and done < len(values):
            try:
                done += super().write(values[done:])
            except OSError as error:
                self.fault = error
        return len(values)
