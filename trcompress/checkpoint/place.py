"""What a path is before anything is read: a plain file, a folder, and what is neither."""

from __future__ import annotations

import re
from pathlib import Path

from trcompress.checkpoint.distributed import METADATA, is_distributed
from trcompress.checkpoint.identify import TENSORFLOW, other_folder
from trcompress.checkpoint.shards import find_index, refuse_lone_shard
from trcompress.errors import InputFileError

_URL = re.compile(r"^[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".pkl", ".tar", ".model")


def find_checkpoint(path: Path) -> Path:
    """Find what to read: the file itself, a folder's index, or a folder that is one checkpoint.

    Raises:
        InputFileError: nothing there, empty, a part of several, or a folder that does not tell.
    """
    try:
        if path.is_dir():
            return _in_folder(path)
        if not path.exists():
            raise InputFileError(_missing(path))
        if not path.is_file():
            raise InputFileError(f"a checkpoint must be a plain file: {path} is a device, pipe or socket")
        if not path.stat().st_size:
            raise InputFileError(f"{path} is empty (0 bytes); fetch or save the checkpoint again")
        if is_distributed(path.parent) and (path.name == METADATA or path.suffix == ".distcp"):
            raise InputFileError(f"{path} is one part of a distributed checkpoint: give its folder, {path.parent}")
        refuse_lone_shard(path)
    except (OSError, ValueError) as error:
        if isinstance(error, InputFileError):
            raise
        raise InputFileError(f"cannot read {path!s:.200}: {error}") from error
    return path


def _in_folder(folder: Path) -> Path:
    if is_distributed(folder):
        return folder
    index = find_index(folder)
    if index is not None:
        return index
    what = other_folder(folder)
    if what is not None:
        raise InputFileError(f"{folder} is not a checkpoint but {what}")
    held = sorted(one.name for one in folder.iterdir() if one.suffix.lower() in _ENDINGS and one.is_file())
    shown = f", {', '.join(held[:5])}" + (" or another" if len(held) > 5 else "") if held else ""
    raise InputFileError(f"a checkpoint must be a file: {folder} is a folder; name a file in it{shown}")


def _missing(path: Path) -> str:
    text = str(path)
    if path.with_name(f"{path.name}.index").is_file():
        return f"{path} is not a checkpoint but {TENSORFLOW}"
    if text == "-":
        return "a checkpoint is not read from standard input (-): save it to a file and name that"
    if _URL.match(text):
        return f"a checkpoint must be a file: {text:.200} is a URL; download it first and name the file"
    return f"no such file: {text:.500}; check the path"
