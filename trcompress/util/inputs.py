"""What a command reads, and that it never writes over it: by name, through links, as a shard or inside a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trcompress.util.bounded_json import read_json

_MOST_INDEX_BYTES = 64 << 20

_noted: list[Path] | None = None
"""Inputs of the command that runs; None outside of one."""
_written: set[Path] = set()


@contextmanager
def inputs_noted() -> Iterator[None]:
    """Remember every input that the body opens, so that no output of it can take its place."""
    global _noted
    before, _noted = _noted, [] if _noted is None else _noted
    try:
        yield
    finally:
        _noted = before
        if before is None:
            _written.clear()


def note_input(path: str | Path) -> None:
    """Say that a file or folder is an input. What the command itself has written does not count."""
    if _noted is not None and Path(os.path.realpath(path)) not in _written:
        _noted.append(Path(path))


def note_output(target: Path) -> None:
    """Say that the command wrote this file, so that reading it again does not make it an input."""
    if _noted is not None:
        _written.add(target)


def input_at(target: Path, keep: Iterable[str | Path] = ()) -> Path | None:
    """Return the input that lies at an output's place, or None.

    Args:
        target: the output, absolute, links resolved; it need not exist.
        keep: further inputs: files, folders, indexes of shards; what is no path on this machine is passed over.
    """
    sources = [Path(one) for one in keep] + (_noted or [])
    for source in sources:
        for path in _files_of(source, inside=target.exists()):
            if _same(target, path):
                return path
    return None


def _files_of(source: Path, *, inside: bool) -> Iterator[Path]:
    """Yield the file, its shards where it is an index, and the files in it where it is a folder."""
    yield source
    try:
        if source.is_dir():
            if inside:
                yield from (Path(folder, name) for folder, _, names in os.walk(source) for name in names)
        elif source.suffix == ".json":
            yield from _shards(source)
    except (OSError, ValueError):
        return


def _shards(index: Path) -> Iterator[Path]:
    """Yield the files that a `*.index.json` names, where it is one."""
    if index.stat().st_size > _MOST_INDEX_BYTES:
        return
    try:
        found = read_json(index.read_bytes())
    except ValueError:
        return
    names = found.get("weight_map") if isinstance(found, dict) else None
    if isinstance(names, dict):
        yield from (index.parent / name for name in {name for name in names.values() if isinstance(name, str)})


def _same(target: Path, source: Path) -> bool:
    """Return True where both are one file, or would be where file names ignore case."""
    try:
        status = source.stat()
    except (OSError, ValueError):
        return False
    try:
        if os.path.samestat(target.stat(), status):
            return True
    except OSError:
        pass
    alike = target.name.casefold() == source.name.casefold()
    return alike and os.path.realpath(source.parent) == str(target.parent)
