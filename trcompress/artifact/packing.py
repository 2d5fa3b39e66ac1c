"""Entropy-code the stored parts of an artifact into one uint8 tensor, with the standard library's codecs.

Parts are laid out in a fixed order that the header's `storage` alone tells, so that nothing but codecs and lengths
has to be written down. Every stream is read up to the length that its parts ask, and no further.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trcompress.artifact.storage import DTYPES, STORAGE, Shape
from trcompress.errors import InputFileError

PACKED_KEY = "trcompress.packed"
"""Where the streams lie, one after another."""

ALONE = 4096
"""Parts of so many bytes get a stream of their own; smaller ones share one."""

MAX_EXPANSION = 256
"""The values of a file, in the type that they expand to, may take so many times its packed bytes, or 64 MiB if that
is more: a network of 64 MiB in four kilobytes is read in some 200 MB."""

Records = Mapping[str, tuple[str, str, Shape]]
"""The header's storage: kind, dtype that it expands to and shape, by key."""

Streams = tuple[tuple[str, int], ...]
"""(codec, bytes) of each stream."""

_LZMA = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0, "mode": lzma.MODE_NORMAL}]


@dataclass(frozen=True)
class Part:
    """One stored tensor of the file.

    Args:
        name: its key in the file.
        dtype: of its values.
        shape: of its values.
        nibbles: two codes lie in each byte.
    """

    name: str
    dtype: torch.dtype
    shape: Shape
    nibbles: bool

    @property
    def raw_bytes(self) -> int:
        """Bytes before coding: a byte a code, two a float16."""
        return prod(self.shape) * (2 if self.nibbles else self.dtype.itemsize)

    @property
    def kind(self) -> str:
        """Parts of one kind may share a stream."""
        return "nibbles" if self.nibbles else str(self.dtype)


def pack(tensors: Mapping[str, Tensor], storage: Records) -> tuple[Tensor, Streams]:
    """Code all stored parts.

    Args:
        tensors: of the file, by key.
        storage: the header's.

    Returns:
        The streams, one after another, as uint8, and the codec and length of each.
    """
    coded, streams = [], []
    for parts in _streams(storage):
        data = _bytes_of(parts, tensors)
        codec, shortest = min(
            ((name, code(data)) for name, (code, _) in CODECS.items()), key=lambda one: len(one[1])
        )
        coded.append(shortest)
        streams.append((codec, len(shortest)))
    whole = np.frombuffer(b"".join(coded), dtype=np.uint8).copy()
    return torch.from_numpy(whole), tuple(streams)


def unpack(packed: Tensor | None, storage: Records, streams: Streams) -> dict[str, Tensor]:
    """Give all stored parts back.

    Raises:
        InputFileError: damaged, of an unknown codec, or claiming more than `MAX_EXPANSION` times its bytes.
    """
    groups = _streams(storage)
    if packed is None or packed.dtype != torch.uint8 or packed.dim() != 1 or len(groups) != len(streams):
        raise InputFileError(f"damaged artifact: {PACKED_KEY} does not hold the streams that its header asks")
    coded = sum(part.raw_bytes for parts in groups for part in parts)
    wanted = max(coded, sum(prod(shape) * _itemsize(dtype) for _, dtype, shape in storage.values()))
    if wanted > max(MAX_EXPANSION * len(packed), 64 * 2**20):
        raise InputFileError(
            f"refused: {len(packed):,} packed bytes claim to hold {wanted:,} bytes of values: at most "
            f"{MAX_EXPANSION} times the packed bytes, or 64 MiB, are expanded"
        )
    data, start = packed.numpy().tobytes(), 0
    found: dict[str, Tensor] = {}
    for parts, (codec, size) in zip(groups, streams, strict=True):
        found |= _parts_of(_decoded(codec, data[start : start + size], parts), parts)
        start += size
    if start != len(data):
        raise InputFileError(f"damaged artifact: {PACKED_KEY} has {len(data):,} bytes; its header asks {start:,}")
    return found


def _itemsize(dtype: str) -> int:
    return DTYPES[dtype].itemsize if dtype in DTYPES else 8  # another one is refused where it is expanded


def _streams(storage: Records) -> list[list[Part]]:
    """Which parts lie in which stream, in a fixed order."""
    alone: list[list[Part]] = []
    shared: dict[str, list[Part]] = {}
    for key in sorted(storage):
        kind, _, shape = storage[key]
        if kind not in STORAGE:
            raise InputFileError(
                f"damaged artifact: {key} is stored as {kind!r}: one of {', '.join(STORAGE)} expected"
            )
        for suffix, (dtype, size) in STORAGE[kind].layout(tuple(shape)).items():
            part = Part(f"{key}.{suffix}" if suffix else key, dtype, size, dtype == torch.uint8)
            if part.raw_bytes >= ALONE:
                alone.append([part])
            else:
                shared.setdefault(part.kind, []).append(part)
    return [*alone, *(shared[kind] for kind in sorted(shared))]


def _bytes_of(parts: Sequence[Part], tensors: Mapping[str, Tensor]) -> bytes:
    values = [tensors[part.name].contiguous().flatten() for part in parts]
    if parts[0].nibbles:
        return b"".join(torch.stack((one & 15, one >> 4), 1).numpy().tobytes() for one in values)
    raw = torch.cat([one.view(torch.uint8) for one in values])
    planes = raw.view(len(raw) // parts[0].dtype.itemsize, parts[0].dtype.itemsize).T
    return planes.contiguous().numpy().tobytes()  # all low bytes, then all high bytes


def _parts_of(data: bytes, parts: Sequence[Part]) -> dict[str, Tensor]:
    raw = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
    if parts[0].nibbles:
        pairs = raw.view(len(raw) // 2, 2)
        raw = pairs[:, 0] & 15 | pairs[:, 1] << 4
    else:
        raw = raw.view(parts[0].dtype.itemsize, len(raw) // parts[0].dtype.itemsize).T.contiguous().flatten()
    sizes = [prod(part.shape) * part.dtype.itemsize for part in parts]
    found = zip(parts, raw.split(sizes), strict=True)
    return {part.name: one.clone().view(part.dtype).reshape(part.shape) for part, one in found}


def _decoded(codec: str, data: bytes, parts: Sequence[Part]) -> bytes:
    size = sum(part.raw_bytes for part in parts)
    if codec not in CODECS:
        raise InputFileError(f"damaged artifact: packed with {codec!r}: one of {', '.join(CODECS)} expected")
    try:
        found = CODECS[codec][1](data, size)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise InputFileError(
            f"damaged artifact: packed values of {parts[0].name} cannot be read: {error}"
        ) from error
    if len(found) != size:
        raise InputFileError(f"damaged artifact: packed values of {parts[0].name} are not {size:,} bytes")
    return found


def _deflate(strategy: int) -> Callable[[bytes], bytes]:
    def code(data: bytes) -> bytes:
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        return coder.compress(data) + coder.flush()

    return code


def _read_with(reader: Callable[[], Any]) -> Callable[[bytes, int], bytes]:
    """Read at most so many bytes; one more is asked for, so that a longer stream is told apart."""
    return lambda data, size: reader().decompress(data, size + 1)


CODECS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]] = {
    "huffman": (_deflate(zlib.Z_HUFFMAN_ONLY), _read_with(lambda: zlib.decompressobj(-15))),
    "deflate": (_deflate(zlib.Z_DEFAULT_STRATEGY), _read_with(lambda: zlib.decompressobj(-15))),
    "lzma": (
        lambda data: lzma.compress(data, lzma.FORMAT_RAW, filters=_LZMA),
        _read_with(lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)),
    ),
    "bz2": (bz2.compress, _read_with(bz2.BZ2Decompressor)),
    "none": (bytes, lambda data, size: data),
}
"""Coder and bounded decoder by name; the shortest of all is taken, stream by stream."""
