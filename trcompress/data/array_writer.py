"""Writing array data sets that `load_data` maps: .npz without compression, or .safetensors; row by row."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from trcompress.errors import UsageError
from trcompress.util.files import atomic_path

SUFFIXES = (".npz", ".safetensors")
_DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8"}


@dataclass(frozen=True)
class Rows:
    """An array that is never in memory as a whole.

    Args:
        shape: of all rows together.
        dtype: of the values.
        rows: arrays of shape[1:], shape[0] of them.
    """

    shape: tuple[int, ...]
    dtype: str
    rows: Iterable[np.ndarray]

    def write(self, stream: IO[bytes]) -> None:
        for row in self.rows:
            stream.write(np.ascontiguousarray(row, dtype=np.dtype(self.dtype).newbyteorder("<")).tobytes())


def write_arrays(path: str | Path, arrays: Mapping[str, Rows], texts: Mapping[str, list[str]]) -> None:
    """Write an array file atomically.

    Args:
        path: ends in .npz or .safetensors.
        arrays: by name.
        texts: lists of text by name: arrays of text in .npz, JSON metadata in .safetensors.

    Raises:
        UsageError: the suffix is another.
        OutputFileError: it cannot be written; nothing is left behind.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"array data sets are written as {' or '.join(SUFFIXES)}: got {path}; rename it")
    write = _write_safetensors if suffix == ".safetensors" else _write_npz
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        write(stream, arrays, texts)


def _write_npz(stream: IO[bytes], arrays: Mapping[str, Rows], texts: Mapping[str, list[str]]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            header: dict[str, Any] = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(array.dtype)),
                "fortran_order": False,
                "shape": array.shape,
            }
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                array.write(member)
        for name, values in texts.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.array(values, dtype=str), allow_pickle=False)


def _write_safetensors(stream: IO[bytes], arrays: Mapping[str, Rows], texts: Mapping[str, list[str]]) -> None:
    header: dict[str, Any] = {"__metadata__": {name: json.dumps(values) for name, values in texts.items()}}
    offset = 0
    for name, array in arrays.items():
        size = int(np.prod(array.shape, dtype=np.int64)) * np.dtype(array.dtype).itemsize
        header[name] = {
            "dtype": _DTYPES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)
    for array in arrays.values():
        array.write(stream)
