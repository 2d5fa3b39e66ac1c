"""Writing files so that a reader never sees half of one, and a failure loses nothing."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trcompress.errors import OutputFileError


def check_output(path: str | Path, *, overwrite: bool = False, keep: tuple[str | Path, ...] = ()) -> Path:
    """Refuse an output path early, before any long work.

    Args:
        path: where the output will go.
        overwrite: allow an existing file to be replaced.
        keep: input files that must never be replaced, not even with `overwrite`.

    Raises:
        OutputFileError: the file exists, is one of `keep`, is a folder, or its folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputFileError(f"the output must be a file: {path} is a folder; name a file in it")
    for source in keep:
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise OutputFileError(f"the output must not replace the input: both are {path}; choose another `out`")
    if path.exists() and not overwrite:
        raise OutputFileError(f"the output exists: {path}; choose another `out`, or allow `overwrite=True`")
    if not path.absolute().parent.is_dir():
        raise OutputFileError(f"the output's folder must exist: {path.absolute().parent} does not; create it first")
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputFileError(f"the output's folder must be writable: {path.absolute().parent} is not")
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it over `path` if the body succeeds.

    Raises:
        OutputFileError: the disk is full or the file cannot be written; `path` is then as it was.

    Example:
        >>> with atomic_path("/dev/shm/note.txt") as temporary:
        ...     _ = temporary.write_text("all or nothing")
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.absolute().parent)
    except OSError as error:
        raise OutputFileError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _settle(temporary, path)
    except OSError as error:
        if isinstance(error, OutputFileError):
            raise
        hint = "; free some space and run again" if error.errno == errno.ENOSPC else ""
        raise OutputFileError(f"cannot write {path}: {error.strerror or error}{hint}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _settle(temporary: Path, path: Path) -> None:
    """Flush to disk, give the permissions a plain open() would give, and rename."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
