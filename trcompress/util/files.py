"""Writing files so that a reader never sees half of one, a failure loses nothing, and no input is written over."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trcompress.errors import OutputFileError
from trcompress.util.claims import claim, claimed
from trcompress.util.inputs import input_at, note_output

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KINDS = {
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def check_output(path: str | Path, *, overwrite: bool = False, keep: Iterable[Any] = ()) -> Path:
    """Refuse an output path early, before any long work.

    Args:
        path: where the output will go. A link is written through, to the file that it leads to.
        overwrite: allow an existing file to be replaced.
        keep: inputs that must never be replaced, not even with `overwrite`: paths of files, folders or indexes of
            shards; whatever is no path, such as a data set in memory, is passed over.

    Raises:
        OutputFileError: the file exists, is an input, is no regular file, is being written by another run, or its
            folder cannot be written to.
    """
    path = Path(path)
    target = _target(path, [Path(one) for one in keep if isinstance(one, str | os.PathLike)])
    if target.exists() and not overwrite:
        raise OutputFileError(f"the output exists: {path}; choose another path, or allow `overwrite=True`")
    if not target.parent.is_dir():
        raise OutputFileError(f"the output's folder must exist: {target.parent} does not; create it first")
    if not os.access(target.parent, os.W_OK):
        raise OutputFileError(f"the output's folder must be writable: {target.parent} is not")
    with faults_named(path):
        claim(target)
    return path


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it over `path` if the body succeeds.

    Args:
        path: where the file goes; a link is written through.
        overwrite: replace a file that is there by then; else it is kept, and the new one is given up.

    Raises:
        OutputFileError: the disk is full, the file cannot be written, is an input of this command, or another run
            is writing it; `path` is then as it was.

    Example:
        >>> with atomic_path("/dev/shm/note.txt") as temporary:
        ...     _ = temporary.write_text("all or nothing")
    """
    path = Path(path)
    with faults_named(path):
        target = _target(path)
        with claimed(target) as part:
            yield part
            _put_in_place(part, target, overwrite=overwrite)
        note_output(target)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Turn the operating system's faults into one that names the output.

    Raises:
        OutputFileError: the body raised an OSError.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputFileError):
            raise
        hint = "; free some space and run again" if error.errno in _FULL else ""
        raise OutputFileError(f"cannot write {path}: {_reason(error)}{hint}") from error


def _target(path: Path, keep: Iterable[Path] = ()) -> Path:
    """Return the file that a write to `path` would make or replace.

    Raises:
        OutputFileError: it is no regular file, is an input, or the name cannot be.
    """
    try:
        target = Path(os.path.realpath(path))
        str(target).encode()  # safetensors opens no other names
        linked, mode = path.is_symlink(), target.stat().st_mode if target.exists() else None
    except (OSError, ValueError) as error:
        raise OutputFileError(f"cannot write {str(path)[:300]!r}: {_reason(error)}; choose another path") from error
    if mode is None and linked:
        raise OutputFileError(
            f"the output is a link that leads to no file: {path} -> {os.readlink(path)}; remove it or name a file"
        )
    if mode is not None and not stat.S_ISREG(mode):
        if stat.S_ISDIR(mode):
            raise OutputFileError(f"the output must be a file: {path} is a folder; name a file in it")
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OutputFileError(f"the output must be a regular file: {path} is {kind}; choose another path")
    source = input_at(target, keep)
    if source is not None:
        same = f"both are {path}" if str(source) == str(path) else f"{path} and {source} are one file"
        raise OutputFileError(f"the output must not replace the input: {same}; choose another path")
    return target


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "its name must be UTF-8"
    return getattr(error, "strerror", None) or str(error)


def _put_in_place(part: Path, target: Path, *, overwrite: bool) -> None:
    """Flush to disk, give the permissions of the file replaced or those of a plain open(), and rename."""
    umask = os.umask(0)
    os.umask(umask)
    part.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~umask)
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    if overwrite:
        part.replace(target)
    else:
        _rename_to_new(part, target)
    _flush_folder(target.parent)


def _rename_to_new(part: Path, target: Path) -> None:
    """Give the file its name only if nothing has that name yet."""
    try:
        os.link(part, target)
    except OSError as error:
        if target.exists():
            raise OutputFileError(
                f"the output appeared while this run worked: {target} is another's and was kept; "
                "choose another path, or allow `overwrite=True`"
            ) from None
        if error.errno in _FULL:
            raise
        part.replace(target)  # a file system without hard links


def _flush_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where folders can be flushed."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
