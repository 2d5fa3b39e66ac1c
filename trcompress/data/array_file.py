"""Named arrays in .npz and .safetensors files, mapped from disk where the file allows, never unpickled."""

from __future__ import annotations

import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from trcompress.checkpoint.archive import Archive
from trcompress.checkpoint.npz_file import array_header
from trcompress.checkpoint.safetensors_file import check_safetensors
from trcompress.errors import InputFileError, UnsafeFileError
from trcompress.util.bounded_json import read_json

_SMALL_BYTES = 2**16
_FREE_BYTES = 100_000_000
_TEXT_LISTS = ("classes", "group", "group_train", "group_val", "group_test", "clips", "notes")
_SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_DAMAGE = (ValueError, TypeError, OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, RuntimeError)


def read_arrays(path: str | Path, max_bytes: int | None = None) -> dict[str, np.ndarray]:
    """Open every array of a file; large ones stay on disk.

    Args:
        path: a .npz file (stored members are mapped, compressed ones read) or a .safetensors file (mapped).
        max_bytes: the most that compressed members may take in memory together; None: 100 MB and twice the file.

    Returns:
        Arrays by name. Lists of text (`classes`, `group`, `notes`) in safetensors metadata come as such.

    Raises:
        InputFileError: the file is missing, damaged, or its compressed members are larger than `max_bytes`.
        UnsafeFileError: an array holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputFileError(f"no such data file: {path}")
    try:
        if path.suffix.lower() == ".safetensors":
            return _read_safetensors(path)
        return _read_npz(path, _FREE_BYTES + 2 * path.stat().st_size if max_bytes is None else max_bytes)
    except InputFileError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputFileError(f"{path} is damaged or not a {path.suffix} file: {reason}; write it again") from error


def _read_npz(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    budget = max_bytes
    with Archive(path):  # its directory is bounded, its sizes can be true, no name stands twice
        pass
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise InputFileError(f"{path} holds two arrays named {name!r}; write it again")
            with archive.open(info) as stream:
                shape, fortran, dtype = _npy_header(stream, name, f"{path}: {name}")
                skip = stream.tell()
            size = dtype.itemsize * int(np.prod(shape, dtype=object))
            if skip + size != info.file_size:
                raise InputFileError(f"{path}: {name} is damaged: {info.file_size - skip:,} bytes, not {size:,}")
            if info.compress_type == zipfile.ZIP_STORED and size > _SMALL_BYTES:
                offset = _member_offset(path, info) + skip
                arrays[name] = _sound_text(
                    np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C"), name
                )
                continue
            budget -= size
            if budget < 0:
                raise InputFileError(
                    f"{path} is compressed and needs more memory than max_bytes={max_bytes:,} (at {name}); "
                    "save it with numpy.savez or as .safetensors, which are mapped, or raise max_bytes"
                )
            with archive.open(info) as stream:
                arrays[name] = _sound_text(np.lib.format.read_array(stream, allow_pickle=False), name)
    return arrays


def _sound_text(array: np.ndarray, name: str) -> np.ndarray:
    """Return an array, of text only if all its characters exist; NumPy makes strings of any number."""
    if array.dtype.kind == "U" and array.size:
        points = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if points.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{name} holds characters that do not exist")
    return array


def _npy_header(stream: IO[bytes], name: str, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    shape, fortran, dtype = array_header(name, stream)
    if dtype.hasobject:
        raise UnsafeFileError(
            f"{where} holds pickled objects, which run code when read; save numbers, or text as dtype=str"
        )
    return shape, fortran, dtype


def _member_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: after its local header, whose size only the file tells."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04" or info.flag_bits & 1:
        raise InputFileError(f"{path}: {info.filename} is damaged or encrypted; write it again")
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    check_safetensors(path)
    try:
        with safe_open(path, framework="numpy") as checked:  # validates sizes and offsets
            metadata = checked.metadata() or {}
    except SafetensorError as error:
        raise InputFileError(f"{path} is damaged or not a .safetensors file: {error}; write it again") from error
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = read_json(stream.read(length))
    arrays = {key: _text_list(metadata[key], path, key) for key in _TEXT_LISTS if key in metadata}
    for name, item in header.items():
        if name != "__metadata__":
            arrays[name] = _map_tensor(path, name, item, 8 + length)
    return arrays


def _map_tensor(path: Path, name: str, item: dict[str, Any], base: int) -> np.ndarray:
    if item["dtype"] not in _SAFETENSORS_DTYPES:
        raise InputFileError(
            f"{path}: {name} must be of a NumPy type: got {item['dtype']}; save it as float16 or float32"
        )
    dtype, shape = np.dtype(_SAFETENSORS_DTYPES[item["dtype"]]), tuple(item["shape"])
    start, end = item["data_offsets"]
    if end - start > _SMALL_BYTES:
        return np.memmap(path, dtype, "r", base + start, shape)
    with path.open("rb") as stream:
        stream.seek(base + start)
        return np.frombuffer(stream.read(end - start), dtype).reshape(shape)


def _text_list(text: str, path: Path, key: str) -> np.ndarray:
    names = read_json(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputFileError(f"{path}: the metadata {key!r} must be a JSON list of texts; write it again")
    return np.array(names, dtype=str)
