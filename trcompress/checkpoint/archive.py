"""Zip archives as checkpoints use them: entries found without trusting what the archive says of itself."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trcompress.checkpoint.limits import DamageError
from trcompress.checkpoint.stored import FileBytes, ZipBytes

_MAX_DIRECTORY_BYTES = 1 << 26
_LOCAL_HEADER_BYTES = 30
_DEFLATE_LIMIT = 1032  # no deflate stream unpacks to more than this many times its size
_BOMB_RATIO = 100
_BOMB_BYTES = 1 << 30


class _Bounded(io.FileIO):
    """A file whose single reads stay small, so that a forged directory asks for no memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > _MAX_DIRECTORY_BYTES:
            raise DamageError(f"its zip directory asks for {wanted:,} bytes")
        return super().read(wanted)


@dataclass
class Archive:
    """The entries of a zip file by name.

    Raises:
        DamageError: truncated, encrypted, two entries of one name, or sizes that cannot be true.
    """

    path: Path

    def __post_init__(self) -> None:
        try:
            with _Bounded(self.path) as stream, zipfile.ZipFile(stream) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, struct.error, NotImplementedError, UnicodeDecodeError, OverflowError) as error:
            raise DamageError(
                f"it begins as a zip archive but has no end ({error}); it is truncated or damaged"
            ) from error
        self.entries = {info.filename: info for info in infos}
        self.size = self.path.stat().st_size
        if len(self.entries) != len(infos):
            raise DamageError("its zip archive holds two entries of one name")
        for info in infos:
            self._check(info)
        unpacked = sum(info.file_size for info in infos)
        if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * self.size:
            raise DamageError(f"its {self.size:,} bytes unpack to {unpacked:,}: a decompression bomb")

    def _check(self, info: zipfile.ZipInfo) -> None:
        stored = info.compress_type == zipfile.ZIP_STORED
        if info.flag_bits & 1:
            raise DamageError(f"its entry {info.filename!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamageError(f"its entry {info.filename!r} is compressed in an unusual way")
        if info.compress_size > self.size or info.file_size > _DEFLATE_LIMIT * (info.compress_size + 64):
            raise DamageError(
                f"its entry {info.filename!r} declares {info.file_size:,} bytes, more than can be there"
            )
        if stored and info.file_size != info.compress_size:
            raise DamageError(f"its entry {info.filename!r} declares two different sizes")

    def bytes_of(self, name: str, skip: int = 0, *, big_endian: bool = False) -> FileBytes | ZipBytes:
        """Where the bytes of an entry are, behind its first `skip`."""
        info = self.entries[name]
        if info.compress_type != zipfile.ZIP_STORED:
            return ZipBytes(self.path, name, skip, info.file_size - skip, big_endian)
        return FileBytes(self.path, self._data_offset(info) + skip, info.file_size - skip, big_endian)

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        with self.path.open("rb") as stream:
            stream.seek(info.header_offset)
            header = stream.read(_LOCAL_HEADER_BYTES)
        if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
            raise DamageError(f"its entry {info.filename!r} is not where the zip directory says")
        name, extra = struct.unpack("<HH", header[26:30])
        offset = info.header_offset + _LOCAL_HEADER_BYTES + name + extra
        if offset + info.compress_size > self.size:
            raise DamageError(f"its entry {info.filename!r} ends behind the end of the file: truncated")
        return int(offset)

    def read(self, name: str, limit: int) -> bytes:
        """Read a small entry whole.

        Raises:
            DamageError: larger than `limit`, or it does not unpack.
        """
        if self.entries[name].file_size > limit:
            raise DamageError(f"its entry {name!r} declares {self.entries[name].file_size:,} bytes")
        with zipfile.ZipFile(self.path) as archive, archive.open(name) as stream:
            return read_exactly(stream, self.entries[name].file_size)


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Read `size` bytes of an entry.

    Raises:
        DamageError: they are not there, or do not unpack.
    """
    try:
        data = stream.read(size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DamageError(f"an entry of its zip archive does not unpack ({error})") from error
    if len(data) != size:
        raise DamageError(f"an entry of its zip archive ends after {len(data):,} of {size:,} bytes")
    return data
