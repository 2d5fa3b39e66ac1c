"""Files of `torch.save` (PyTorch 1.6 and later) and of `torch.jit.save`: a zip with a pickle and raw storages."""

from __future__ import annotations

import io
from typing import Any

from trcompress.checkpoint.archive import Archive
from trcompress.checkpoint.limits import MAX_PICKLE_BYTES, DamageError
from trcompress.checkpoint.meanings import storage_dtype
from trcompress.checkpoint.pickles import Load
from trcompress.checkpoint.stored import RawStorage, UnreadableTensor

PICKLE_NAME = "data.pkl"


def pickle_entry(archive: Archive) -> str | None:
    """Return the name of the archive's main pickle, or None if it is no torch file.

    Raises:
        DamageError: there are several.
    """
    found = [name for name in archive.entries if name.rpartition("/")[2] == PICKLE_NAME and name.count("/") <= 1]
    if len(found) > 1:
        raise DamageError(f"it holds {len(found)} checkpoints in one archive: {', '.join(found[:3])}")
    return found[0] if found else None


def read_torch_zip(archive: Archive, entry: str, load: Load) -> Any:
    """Read an archive's object; its tensors stay in the file.

    Args:
        archive: the zip file.
        entry: from `pickle_entry`.
        load: reads one pickle of a stream, see `pickles.PickleReader`.

    Raises:
        DamageError: what the archive says cannot be true.
    """
    storages = _Storages(archive, entry[: -len(PICKLE_NAME)])
    return load(io.BytesIO(archive.read(entry, MAX_PICKLE_BYTES)), storages)


def is_scripted(archive: Archive, entry: str) -> bool:
    """Return True where this is a TorchScript archive."""
    return f"{entry[: -len(PICKLE_NAME)]}constants.pkl" in archive.entries


class _Storages:
    """Persistent ids of the pickle -> storages of the archive, each found once."""

    def __init__(self, archive: Archive, prefix: str) -> None:
        self._archive = archive
        self._prefix = prefix
        self._seen: dict[tuple[Any, ...], RawStorage] = {}
        order = f"{prefix}byteorder"
        self._big_endian = order in archive.entries and archive.read(order, 16).strip() == b"big"

    def __call__(self, persistent_id: Any) -> RawStorage | UnreadableTensor:
        if not isinstance(persistent_id, tuple) or len(persistent_id) != 5 or persistent_id[0] != "storage":
            raise DamageError("its pickle refers to data that is no storage")
        _, kind, key, location, numel = persistent_id
        if location == "meta":
            return UnreadableTensor("a tensor without data, on the meta device")
        if not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise DamageError("its pickle refers to a storage by something other than a name and a size")
        wanted = (storage_dtype(kind), key, numel)
        if wanted not in self._seen:
            self._seen[wanted] = self._find(RawStorage(wanted[0], numel), key)
        return self._seen[wanted]

    def _find(self, storage: RawStorage, key: str) -> RawStorage:
        name = f"{self._prefix}data/{key}"
        if name not in self._archive.entries:
            raise DamageError(f"its storage {key!r} is missing")
        storage.source = self._archive.bytes_of(name, big_endian=self._big_endian)
        if storage.nbytes > storage.source.nbytes:
            raise DamageError(
                f"its storage {key!r} declares {storage.nbytes:,} bytes but has {storage.source.nbytes:,}"
            )
        return storage
