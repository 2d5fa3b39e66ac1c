"""One checkpoint in several files, listed by a `*.index.json`: {"weight_map": {tensor: file}}."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trcompress.checkpoint.content import FileContent
from trcompress.checkpoint.limits import DamageError, in_short, shown
from trcompress.errors import InputFileError
from trcompress.util.bounded_json import read_json

INDEX_ENDING = ".index.json"
_MAX_INDEX_BYTES = 1 << 26
_MAX_FILES = 10_000
_NUMBERED = re.compile(r"^(?P<stem>.+)-\d{5}-of-(?P<total>\d{5})(?P<ending>\.[a-z]+)$")


def read_index(path: Path, read_part: Callable[[Path], FileContent]) -> FileContent:
    """Read all files that an index lists as one.

    Args:
        path: the index.
        read_part: reads one file.

    Raises:
        InputFileError: a file is missing, or does not hold what the index says.
        DamageError: the index itself cannot be true.
    """
    where = weight_map(path)
    if where is None:
        raise InputFileError(
            f"{path} is not a checkpoint but JSON (an index holds a weight_map): give the file with the weights"
        )
    tensors: dict[str, Any] = {}
    parts = []
    for name in sorted(set(where.values())):
        part = read_part(_beside(path, name))
        parts.append(part)
        tensors |= _own(part, {key for key, file in where.items() if file == name}, tensors)
    formats = "/".join(sorted({part.format for part in parts}))
    notes = (
        f"{len(parts)} files read as one checkpoint",
        *dict.fromkeys(note for one in parts for note in one.notes),
    )
    return FileContent(path, f"{formats}-shards", tensors, {}, notes, (path, *(part.path for part in parts)))


def weight_map(path: Path) -> dict[str, str] | None:
    """Tensor -> file, of an index; None for other JSON.

    Raises:
        DamageError: too large, no JSON, or files that are no plain names.
    """
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise DamageError(f"it has {path.stat().st_size:,} bytes; an index of at most {_MAX_INDEX_BYTES:,} is read")
    try:
        content = read_json(path.read_bytes())
    except ValueError as error:
        raise DamageError(f"it begins as JSON but is none ({in_short(error)})") from error
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict):
        return None
    if not where or not all(isinstance(name, str) for name in where.values()):
        raise DamageError("its weight_map does not name a file for each tensor")
    files = set(where.values())
    if len(files) > _MAX_FILES:
        raise DamageError(f"its weight_map names {len(files):,} files; at most {_MAX_FILES:,} are read")
    for name in files:
        if not name or name in (".", "..") or re.search(r"[/\\:\0]", name):
            raise DamageError(
                f"its weight_map names {name!r:.100}: parts must lie beside the index, by plain names"
            )
    return where


def find_index(folder: Path) -> Path | None:
    """Return the index in a folder: the one of safetensors where there are several.

    Raises:
        InputFileError: there are several and nothing tells which.
    """
    found = sorted(one for one in folder.glob(f"*{INDEX_ENDING}") if weight_map(one) is not None)
    safe = [one for one in found if one.name.endswith(f".safetensors{INDEX_ENDING}")]
    if len(found) > 1 and len(safe) != 1:
        raise InputFileError(
            f"{folder} holds several checkpoints: name one of {', '.join(one.name for one in found)}"
        )
    return next(iter(safe or found), None)


def refuse_lone_shard(path: Path) -> None:
    """Stop where a file is only a part of a checkpoint.

    Raises:
        InputFileError: names the index.
    """
    if path.name.endswith(INDEX_ENDING):
        return
    numbered = _NUMBERED.match(path.name)
    for index in sorted(path.parent.glob(f"*{INDEX_ENDING}"))[:20]:
        try:
            files = set((weight_map(index) or {}).values())
        except (DamageError, OSError):
            continue
        if path.name in files and len(files) > 1:
            raise InputFileError(f"{path} is one of {len(files)} parts of a checkpoint: give its index, {index}")
    if numbered and int(numbered["total"]) > 1:
        index = path.with_name(f"{numbered['stem']}{numbered['ending']}{INDEX_ENDING}")
        raise InputFileError(
            f"{path} is one of {int(numbered['total'])} parts of a checkpoint, and their index {index.name} is not "
            "beside it: fetch all parts and the index, and give the index"
        )


def _beside(index: Path, name: str) -> Path:
    part = index.with_name(name)
    if not part.is_file():
        raise InputFileError(f"{index} lists {name}, which is not beside it: fetch all parts of the checkpoint")
    return part


def _own(part: FileContent, listed: set[str], before: dict[str, Any]) -> dict[str, Any]:
    """The tensors of one part, held against the index."""
    if not isinstance(part.root, dict):
        raise InputFileError(f"{part.path} is no dict of tensors, as a part of a checkpoint is")
    missing = sorted(listed - part.root.keys())
    if missing:
        raise InputFileError(
            f"{part.path} lacks {', '.join(missing[:3])}, which the index puts there: fetch the parts again"
        )
    twice = sorted(before.keys() & part.root.keys())
    if twice:
        raise InputFileError(f"two parts of the checkpoint hold {twice[0]!r}: fetch the parts again")
    return {shown(key, 2_000): value for key, value in part.root.items()}
