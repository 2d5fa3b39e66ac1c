"""Zip archives as checkpoints use them: entries found without trusting what the archive says of itself."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

from trcompress.checkpoint.limits import DamageError
from trcompress.checkpoint.stored import FileBytes, ZipBytes

_MAX_DIRECTORY_BYTES = 1 << 25
_LOCAL_HEADER_BYTES = 30
_DEFLATE_LIMIT = 1032  # no deflate stream unpacks to more than this many times its size
_BOMB_RATIO = 100
_UNPACKED_BYTES = 1 << 25  # of a small entry, where the file itself has fewer
_BOMB_BYTES = 1 << 30
_BAD_ZIP = (zipfile.BadZipFile, struct.error, NotImplementedError, UnicodeDecodeError, OverflowError)


class _Part(io.FileIO):
    """Part of a file, as a file whose single reads stay small, so that a forged directory asks for no memory."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__(path)
        self._start, self._size = start, size
        super().seek(start)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        base = {0: self._start, 1: super().tell(), 2: self._start + self._size}[whence]
        return super().seek(max(self._start, base + offset)) - self._start

    def tell(self) -> int:
        return super().tell() - self._start

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > _MAX_DIRECTORY_BYTES:
            raise DamageError(f"its zip directory asks for {wanted:,} bytes")
        return super().read(wanted)


class Archive:
    """The entries of an open zip file by name; a context manager.

    Args:
        path: the file.
        start: where the archive begins in it.
        size: its bytes; all to the end of the file by default.

    Raises:
        DamageError: truncated, encrypted, two entries of one name, or sizes that cannot be true.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self.path = path
        self._start = start
        whole = path.stat().st_size
        self.size = whole - start if size is None else size
        if not 0 <= start <= start + self.size <= whole:
            raise DamageError(
                f"a part of it lies at bytes {start:,} to {start + self.size:,} of {whole:,}: truncated"
            )
        self._stream = _Part(path, start, self.size)
        try:
            self._zip = zipfile.ZipFile(self._stream)
            infos = self._zip.infolist()
            self.entries = {info.filename: info for info in infos}
            if len(self.entries) != len(infos):
                raise DamageError("its zip archive holds two entries of one name")
            for info in infos:
                self._check(info)
            self._check_sum(sum(info.file_size for info in infos))
        except _BAD_ZIP as error:
            self._stream.close()
            raise DamageError(
                f"it begins as a zip archive but does not end as one ({error}); it is truncated or damaged"
            ) from error
        except DamageError:
            self._stream.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._stream.close()

    def _check_sum(self, unpacked: int) -> None:
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
        """Return where the bytes of an entry are, behind its first `skip`."""
        info = self.entries[name]
        if info.compress_type != zipfile.ZIP_STORED:
            if self._start:
                raise DamageError(f"its entry {name!r} is compressed inside another file; unpack that first")
            return ZipBytes(self.path, name, skip, info.file_size - skip, big_endian)
        start = self._start + self._data_offset(info)
        return FileBytes(self.path, start + skip, info.file_size - skip, big_endian)

    def place_of(self, name: str) -> tuple[int, int] | None:
        """Return where an entry lies in the file: (offset, bytes); None where it is compressed."""
        info = self.entries[name]
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        return self._start + self._data_offset(info), info.file_size

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        self._stream.seek(info.header_offset)
        header = self._stream.read(_LOCAL_HEADER_BYTES)
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
            DamageError: larger than `limit`, or than the file where it must be unpacked, or it does not unpack.
        """
        size = self.entries[name].file_size
        if self.entries[name].compress_type != zipfile.ZIP_STORED:
            limit = min(limit, max(_UNPACKED_BYTES, self.size))
        if size > limit:
            raise DamageError(f"its entry {name!r} declares {size:,} bytes; at most {limit:,} are read")
        return self.head(name, size)

    def head(self, name: str, size: int) -> bytes:
        """Read the first `size` bytes of an entry.

        Raises:
            DamageError: they are not there, or do not unpack.
        """
        info = self.entries[name]
        try:
            if info.compress_type == zipfile.ZIP_STORED:  # as PyTorch reads it: checksums may be left out
                with self.path.open("rb") as plain:
                    plain.seek(self._start + self._data_offset(info))
                    data = plain.read(min(size, info.file_size))
            else:
                with self._zip.open(name) as stream:
                    data = stream.read(size)
        except (*_BAD_ZIP, zlib.error, EOFError) as error:
            raise DamageError(f"its entry {name!r} does not unpack ({error})") from error
        if len(data) != size:
            raise DamageError(f"its entry {name!r} ends after {len(data):,} of {size:,} bytes")
        return data
