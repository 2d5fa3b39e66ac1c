"""Files of `torch.save` before PyTorch 1.6, and with `_use_new_zipfile_serialization=False`.

Five pickles (magic number, protocol, system, object, storage keys), then each storage: its length and its bytes.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, Any

from trcompress.checkpoint.inert import Global
from trcompress.checkpoint.limits import DamageError
from trcompress.checkpoint.meanings import storage_dtype
from trcompress.checkpoint.pickles import Load
from trcompress.checkpoint.stored import FileBytes, RawStorage, UnreadableTensor

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


def read_torch_legacy(stream: IO[bytes], path: Path, load: Load) -> tuple[bool, Any]:
    """Read the object of a legacy file; its tensors stay in the file.

    Returns:
        Whether `torch.save` wrote it, and the object; of a plain pickle, which has no tensors, the first one.

    Raises:
        DamageError: truncated, or what the file says cannot be true.
    """
    first = load(stream)
    if type(first) is not int or first != MAGIC_NUMBER:
        return False, first
    if load(stream) != PROTOCOL_VERSION:
        raise DamageError(f"its protocol is not {PROTOCOL_VERSION}")
    load(stream)  # what the writing machine was; sizes and values are little-endian whatever it says
    storages = LegacyStorages()
    root = load(stream, storages)
    keys = load(stream)
    if not isinstance(keys, list):
        raise DamageError("its list of storages is none")
    _place(stream, path, storages, keys)
    return True, root


def _place(stream: IO[bytes], path: Path, storages: LegacyStorages, keys: list[Any]) -> None:
    """Walk over the raw storages, noting where each lies."""
    size, offset = os.fstat(stream.fileno()).st_size, stream.tell()
    for key in keys:
        stream.seek(offset)
        length = stream.read(8)
        wanted = storages.roots.get(key) if isinstance(key, str) else None
        if wanted is None or len(length) < 8:
            raise DamageError("it ends before its tensors, or lists one that it does not use: truncated or damaged")
        (numel,) = struct.unpack("<q", length)
        if numel != wanted.numel:
            raise DamageError(f"its storage {key!r} is declared as {wanted.numel:,} values and kept as {numel:,}")
        if offset + 8 + wanted.nbytes > size:
            raise DamageError(
                f"it ends inside storage {key!r}: {offset + 8 + wanted.nbytes:,} bytes expected, {size:,} there"
            )
        wanted.source = FileBytes(path, offset + 8, wanted.nbytes)
        offset += 8 + wanted.nbytes
    storages.place_views(set(keys))


class LegacyStorages:
    """Persistent ids of the pickle -> storages whose place in the file is not known yet."""

    def __init__(self) -> None:
        self.roots: dict[str, RawStorage] = {}
        self._views: list[tuple[RawStorage, str, int]] = []

    def __call__(self, persistent_id: Any) -> Any:
        if not isinstance(persistent_id, tuple) or len(persistent_id) < 2:
            raise DamageError("its pickle refers to data that is no storage")
        if persistent_id[0] == "module" and isinstance(persistent_id[1], Global):
            return persistent_id[1]
        if persistent_id[0] != "storage" or len(persistent_id) not in (5, 6):
            raise DamageError("its pickle refers to data that is no storage")
        return self._storage(*persistent_id[1:])

    def _storage(
        self, kind: Any, key: Any, location: Any, numel: Any, view: Any = None
    ) -> RawStorage | UnreadableTensor:
        dtype = storage_dtype(kind)
        if location == "meta":
            return UnreadableTensor("a tensor without data, on the meta device")
        if not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise DamageError("its pickle refers to a storage by something other than a name and a size")
        root = self.roots.setdefault(key, RawStorage(dtype, numel))
        if root.dtype != dtype or root.numel != numel:
            raise DamageError(f"its pickle declares storage {key!r} in two ways")
        return root if view is None else self._view(root, key, view)

    def _view(self, root: RawStorage, key: str, view: Any) -> RawStorage:
        """Part of a storage as a storage of its own, as PyTorch 0.x wrote it."""
        if not isinstance(view, tuple) or len(view) != 3 or any(type(number) is not int for number in view[1:]):
            raise DamageError(f"its pickle declares an unknown part of storage {key!r}")
        _, offset, numel = view
        if not 0 <= offset <= offset + numel <= root.numel:
            raise DamageError(f"its pickle declares a part of storage {key!r} that lies outside it")
        part = RawStorage(root.dtype, numel)
        self._views.append((part, key, offset))
        return part

    def place_views(self, placed: set[str]) -> None:
        """Give the parts their place, and make sure that no storage stayed without one."""
        for part, key, offset in self._views:
            source = self.roots[key].source
            if isinstance(source, FileBytes):
                start = source.offset + offset * part.dtype.itemsize
                part.source = FileBytes(source.path, start, part.nbytes)
        missing = [key for key in self.roots if key not in placed]
        if missing:
            raise DamageError(f"its storage {missing[0]!r} is missing")
