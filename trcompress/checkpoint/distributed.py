"""Folders of `torch.distributed.checkpoint`: `.metadata`, a pickle, and `.distcp` files of small torch files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcompress.checkpoint.archive import Archive
from trcompress.checkpoint.content import FileContent
from trcompress.checkpoint.inert import Global, Instance
from trcompress.checkpoint.limits import DamageError, shown
from trcompress.checkpoint.meanings import torch_dtype
from trcompress.checkpoint.pickles import PickleReader
from trcompress.checkpoint.safety import refuse_unsafe
from trcompress.checkpoint.stored import DerivedTensor, StoredTensor, UnreadableTensor
from trcompress.checkpoint.torch_zip import pickle_entry, read_torch_zip

METADATA = ".metadata"
_MAX_CHUNKS = 1_000_000
_LONGEST_NAME = 2_000


@dataclass(frozen=True)
class _Place:
    """Where one chunk of a tensor lies."""

    file: str
    offset: int
    length: int


def is_distributed(folder: Path) -> bool:
    """Return True where a folder is a distributed checkpoint."""
    return (folder / METADATA).is_file()


def read_distributed(folder: Path) -> FileContent:
    """Read a folder's tensors, still in their files, in the dicts they were saved in.

    Raises:
        DamageError: what its metadata says cannot be true, or a part is missing.
        UnsafeFileError: its metadata or a part is no plain data.
    """
    reader = PickleReader((folder / METADATA).stat().st_size)
    with (folder / METADATA).open("rb") as stream:
        found = reader.load(stream)
    refuse_unsafe(folder / METADATA, reader.pickles)
    described, planned, stored = (
        _dict(found, name) for name in ("state_dict_metadata", "planner_data", "storage_data")
    )
    places = _places(stored)
    _check_apart(folder, places)
    root: dict[Any, Any] = {}
    for name, about in described.items():
        text = shown(name, _LONGEST_NAME)
        _put(root, planned.get(name), text, _value(folder, text, about, places.get(text, {})))
    files = sorted({place.file for chunks in places.values() for place in chunks.values()})
    notes = (f"a distributed checkpoint: {len(files)} files read as one",)
    return FileContent(
        folder, "torch-distributed", root, {}, notes, (folder / METADATA, *(folder / name for name in files))
    )


def _dict(found: Any, name: str) -> dict[Any, Any]:
    value = found.state.get(name) if isinstance(found, Instance) else None
    if value is None and name == "planner_data":
        return {}
    if not isinstance(value, dict):
        raise DamageError(f"its {METADATA} holds no {name}: written by an unknown version of PyTorch")
    return value


def _places(stored: dict[Any, Any]) -> dict[str, dict[tuple[int, ...], _Place]]:
    """Tensor -> where each of its chunks begins in it -> where that chunk lies."""
    if len(stored) > _MAX_CHUNKS:
        raise DamageError(f"its {METADATA} lists {len(stored):,} parts; at most {_MAX_CHUNKS:,} are read")
    places: dict[str, dict[tuple[int, ...], _Place]] = {}
    for index, info in stored.items():
        if not isinstance(index, Instance) or not isinstance(info, Instance):
            raise DamageError(f"its {METADATA} does not say where its tensors lie")
        if info.state.get("transform_descriptors"):
            raise DamageError("its parts are compressed, by an extension of PyTorch: load it and save it plainly")
        file, numbers = info.state.get("relative_path"), [info.state.get(name) for name in ("offset", "length")]
        if not isinstance(file, str) or re.search(r"[/\\:\0]", file) or file in ("", ".", ".."):
            raise DamageError(f"its {METADATA} names a file that is no plain name beside it: {file!r:.100}")
        begins = _numbers(index.state.get("offset") or ())
        offset, length = _numbers(numbers)
        places.setdefault(shown(index.state.get("fqn"), _LONGEST_NAME), {})[begins] = _Place(file, offset, length)
    return places


def _check_apart(folder: Path, places: dict[str, dict[tuple[int, ...], _Place]]) -> None:
    """Each part is an archive of its own: parts that overlap would be read once for each that claims them.

    Raises:
        DamageError: the parts in a file are longer than the file.
    """
    taken: dict[str, int] = {}
    for chunks in places.values():
        for place in chunks.values():
            taken[place.file] = taken.get(place.file, 0) + place.length
    for file, length in taken.items():
        path = folder / file
        if path.is_file() and length > path.stat().st_size:
            raise DamageError(f"its parts in {file} take {length:,} bytes of {path.stat().st_size:,}: they overlap")


def _value(folder: Path, name: str, about: Any, places: dict[tuple[int, ...], _Place]) -> Any:
    """A tensor, or a stand-in for an object that was pickled: never opened."""
    chunks = about.state.get("chunks") if isinstance(about, Instance) else None
    if chunks is None:
        return Instance(about.origin if isinstance(about, Instance) else Global("", "an unknown entry"))
    size, dtype = _numbers(about.state.get("size")), _dtype(about)
    if dtype is None or not isinstance(chunks, list):
        return UnreadableTensor("a tensor of an unknown type")
    if len(chunks) > max(1, len(places)):
        raise DamageError(f"its {METADATA} describes more parts of {name!r:.100} than it says where they lie")
    tensors = []
    for chunk in chunks:
        if not isinstance(chunk, Instance):
            raise DamageError(f"its {METADATA} describes a part of {name!r:.100} as no part")
        begins, sizes = (_numbers(chunk.state.get(key)) for key in ("offsets", "sizes"))
        inside = len(begins) == len(sizes) == len(size)
        if not inside or any(a + b > whole for a, b, whole in zip(begins, sizes, size, strict=True)):
            raise DamageError(f"its {METADATA} gives {name!r:.100} a part that lies outside of it")
        place = places.get(begins) or places.get(())
        if place is None:
            raise DamageError(f"its {METADATA} does not say where part {begins} of {name!r:.100} lies")
        tensors.append((begins, _chunk(folder, name, place, sizes, dtype)))
    if sum(tensor.numel for _, tensor in tensors) != prod(size):
        raise DamageError(f"its parts of {name!r:.100} do not make up its shape {size}")
    return tensors[0][1] if len(tensors) == 1 else _joined(tensors, size, dtype)


def _chunk(folder: Path, name: str, place: _Place, sizes: tuple[int, ...], dtype: torch.dtype) -> StoredTensor:
    path = folder / place.file
    if not path.is_file():
        raise DamageError(f"its part {place.file} is missing: copy the whole folder")
    reader = PickleReader(place.length)
    with Archive(path, place.offset, place.length) as archive:
        entry = pickle_entry(archive)
        if entry is None:
            raise DamageError(f"its part of {name!r:.100} in {place.file} is no tensor of PyTorch")
        tensor = read_torch_zip(archive, entry, reader.load)
    refuse_unsafe(path, reader.pickles)
    if not isinstance(tensor, StoredTensor) or tensor.shape != sizes or tensor.dtype != dtype or tensor.expanded:
        raise DamageError(f"its part of {name!r:.100} in {place.file} is not the tensor that {METADATA} describes")
    return tensor


def _joined(
    chunks: Sequence[tuple[tuple[int, ...], StoredTensor]], size: tuple[int, ...], dtype: torch.dtype
) -> DerivedTensor:
    """A tensor that was saved in parts, by several processes."""

    def compute() -> Tensor:
        whole = torch.zeros(size, dtype=dtype)
        for begins, chunk in chunks:
            place = tuple(slice(begin, begin + count) for begin, count in zip(begins, chunk.shape, strict=True))
            whole[place] = chunk.load()
        return whole

    return DerivedTensor(dtype, size, compute)


def _dtype(about: Instance) -> torch.dtype | None:
    properties = about.state.get("properties")
    if not isinstance(properties, Instance):
        return None
    told = properties.raw_state[0] if isinstance(properties.raw_state, tuple) else properties.state.get("dtype")
    return torch_dtype(told)


def _numbers(values: Any) -> tuple[int, ...]:
    found = tuple(values) if isinstance(values, tuple | list) else (values,)
    if len(found) > 64 or any(type(one) is not int or not 0 <= one < 2**62 for one in found):
        raise DamageError(f"its {METADATA} gives sizes that are not whole numbers of 0 or more")
    return found


def _put(root: dict[Any, Any], path: Any, name: str, value: Any) -> None:
    """Put a value at its place in the dicts that were saved; flat, where nothing tells."""
    keys = path if isinstance(path, tuple) and 0 < len(path) <= 100 else (name,)
    node = root
    for key in keys[:-1]:
        node = node.setdefault(shown(key, _LONGEST_NAME), {})
        if not isinstance(node, dict):
            raise DamageError(f"its {METADATA} puts {name!r:.100} inside something that is no dict")
    node[shown(keys[-1], _LONGEST_NAME)] = value
