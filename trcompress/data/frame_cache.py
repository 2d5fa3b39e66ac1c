"""Decoded frames on disk: one checked uint8 file per clip, written whole or not at all.

An entry is named by what the clip is (name, size, time, both ends of its bytes) and by how it was decoded, so
a changed clip or setting never meets an old entry. Entries that are damaged count as missing.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import time
import zlib
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from trcompress.data.decode import DecodedClip, DecodeSettings
from trcompress.errors import OutputFileError

_MAGIC = b"trframe1"
_HEADER = struct.Struct("<8s7I")  # magic, CRC-32 of the rest, K, height, width, total, damaged, cut
_END_BYTES = 2**16
_STALE_S = 24 * 3600
_LEFT = re.compile(r"[0-9a-f]{32}\.part|\..*\.trcompress\.part")
"""Names that unfinished files of ours have: a folder that the user names may hold parts of others."""


@dataclass(frozen=True)
class Entry:
    """The cached frames of one clip.

    Args:
        path: the cache file.
        shape: (K, height, width, 3).
        total: whole frames in the clip.
        damaged: frames that did not decode whole.
        cut: the clip lacks its end.
    """

    path: Path
    shape: tuple[int, int, int, int]
    total: int
    damaged: int
    cut: bool

    def frames(self) -> np.ndarray:
        """Map the frames, read only."""
        return np.memmap(self.path, np.uint8, "r", _HEADER.size, self.shape)

    def is_sound(self) -> bool:
        """Return whether the file is what was written, byte for byte."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return False
        return len(content) > _HEADER.size and zlib.crc32(content[12:]) == _HEADER.unpack_from(content)[1]


def default_cache_dir() -> Path:
    """Return the user's cache folder for this program: TRCOMPRESS_CACHE, or what the system has for caches."""
    if named := os.environ.get("TRCOMPRESS_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "trcompress"


def open_cache(folder: Path) -> Path:
    """Make the folder, and remove what interrupted runs of a day ago left in it.

    Raises:
        OutputFileError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():
            if _LEFT.fullmatch(left.name) and time.time() - left.lstat().st_mtime > _STALE_S:
                left.unlink(missing_ok=True)
    except OSError as error:
        raise OutputFileError(
            f"decoded frames need a cache folder that can be written to: {folder}: {error.strerror}; "
            "name another with cache_dir or TRCOMPRESS_CACHE"
        ) from error
    return folder


def entry_path(folder: Path, clip: Path, name: str, settings: DecodeSettings) -> Path:
    """Return where the frames of a clip belong, whether or not they are there.

    Args:
        folder: the cache folder.
        clip: the video file.
        name: its path within its tree.
        settings: how it is decoded.
    """
    status = clip.stat()
    with clip.open("rb") as stream:
        ends = stream.read(_END_BYTES)
        stream.seek(max(0, status.st_size - _END_BYTES))
        ends += stream.read()
    what = repr((name, status.st_size, status.st_mtime_ns, zlib.crc32(ends), astuple(settings)))
    return folder / f"{hashlib.sha256(what.encode()).hexdigest()[:40]}.frames"


def read_entry(path: Path, settings: DecodeSettings) -> Entry | None:
    """Return the entry if it is there and of the right size; its bytes are checked on first use."""
    try:
        with path.open("rb") as stream:
            header = stream.read(_HEADER.size)
            size = stream.seek(0, 2)
    except OSError:
        return None
    if len(header) < _HEADER.size:
        return None
    magic, _, count, height, width, total, damaged, cut = _HEADER.unpack(header)
    expected = (settings.height, settings.width)
    if magic != _MAGIC or (height, width) != expected or not 1 <= count <= settings.candidates:
        return None
    if size != _HEADER.size + count * height * width * 3:
        return None
    return Entry(path, (count, height, width, 3), total, damaged, bool(cut))


def write_entry(path: Path, clip: DecodedClip) -> None:
    """Write an entry; the caller gives it its final name once it is whole."""
    count, height, width, _ = clip.frames.shape
    rest = struct.pack("<6I", count, height, width, clip.total, clip.damaged, clip.cut)
    pixels = clip.frames.tobytes()
    check = zlib.crc32(pixels, zlib.crc32(rest))
    with path.open("wb") as stream:
        stream.write(_MAGIC + struct.pack("<I", check) + rest)
        stream.write(pixels)
