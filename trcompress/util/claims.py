"""Who writes a file now: one run at a time, known by a lock that ends with its process.

While `model.pt` is written, `.model.pt.trcompress.lock` lies beside it, which the writer holds by flock, and
`.model.pt.trcompress.part`. A killed run leaves them; the next run that writes the same output finds the lock free,
and takes both over. No other name is ever cleaned.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trcompress.errors import OutputFileError

try:
    import fcntl
except ImportError:  # not a POSIX system: no locks, so leftovers of others are never cleaned
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""For a pipe in the place of a lock, which nobody writes to."""
_MOST_NAME_BYTES = 255

_held: dict[Path, _Lock] = {}
"""Claims that last as long as the command that made them."""
_depth = 0
_writing: set[Path] = set()
_guard = threading.Lock()


@dataclass(frozen=True)
class _Lock:
    """An open lock file; `alone` says that no other run can hold it."""

    path: Path
    handle: int
    alone: bool


@contextmanager
def claims_last() -> Iterator[None]:
    """Hold every output that `claim` names until the body ends; outside, `claim` only looks whether it is free."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            while _held:
                _release(_held.popitem()[1])


def claim(target: Path) -> None:
    """Refuse an output that another run is writing; within `claims_last`, keep others off it.

    Args:
        target: absolute, links resolved.

    Raises:
        OutputFileError: another run holds it, or its folder cannot be written to.
    """
    if target in _held or os.environ.get("RANK", "0") != "0":  # under torchrun, the first process writes
        return
    lock = _lock(target)
    if lock.alone:
        remove_own(beside(target, "part"))
    if _depth:
        _held[target] = lock
    else:
        _release(lock)


@contextmanager
def claimed(target: Path) -> Iterator[Path]:
    """Hold an output while the body writes; yield the path of an empty file beside it to write to.

    Raises:
        OutputFileError: another run, or another thread of this one, is writing it.
    """
    with exclusive(target) as alone:
        part = beside(target, "part", "" if alone else uuid.uuid4().hex)
        remove_own(part)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600))
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def exclusive(target: Path) -> Iterator[bool]:
    """Hold an output; yield whether that keeps all other runs off it, which not every file system can.

    Raises:
        OutputFileError: another run, or another thread of this one, is writing it.
    """
    with _guard:
        if target in _writing:
            raise _busy(target)
        _writing.add(target)
    try:
        held = _held.get(target)
        lock = held or _lock(target)
        try:
            yield lock.alone
        finally:
            if held is None:
                _release(lock)
    finally:
        _writing.discard(target)


def clear_claim(target: Path) -> None:
    """Remove the lock file of a run that was killed when its output was whole already; one that is held stays."""
    if beside(target, "lock").exists():
        with suppress(OutputFileError), exclusive(target):
            pass


def beside(target: Path, ending: str, token: str = "") -> Path:
    """Return `.NAME.trcompress.ENDING` in the target's folder; a name too long for that is hashed."""
    middle = f".{token}" if token else ""
    name = f".{target.name}{middle}.trcompress.{ending}"
    if len(os.fsencode(name)) > _MOST_NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{middle}.trcompress.{ending}"
    return target.with_name(name)


def _lock(target: Path) -> _Lock:
    """Open and lock the lock file; one that was removed meanwhile is opened again."""
    path = beside(target, "lock")
    while True:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | _NO_FOLLOW | _NO_WAIT, 0o666)
        try:
            if fcntl is None:
                return _Lock(path, handle, alone=False)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return _Lock(path, handle, alone=True)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(handle)
            raise _busy(target) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return _Lock(path, handle, alone=False)
            os.close(handle)
            raise
        os.close(handle)


def _release(lock: _Lock) -> None:
    """Remove the lock file while it is still held, then let go."""
    try:
        if os.path.samestat(os.fstat(lock.handle), lock.path.stat()):
            lock.path.unlink()
    except OSError:
        pass  # the folder is gone, or another took the name: nothing of ours is left
    os.close(lock.handle)


def remove_own(part: Path) -> None:
    """Remove what a killed run of this user left; another user's is named instead.

    Raises:
        OutputFileError: it is another user's.
    """
    try:
        owner = part.lstat().st_uid
    except FileNotFoundError:
        return
    if hasattr(os, "geteuid") and owner != os.geteuid():
        raise OutputFileError(f"{part} was left by another user's run: remove it, or choose another path")
    part.unlink(missing_ok=True)


def _busy(target: Path) -> OutputFileError:
    return OutputFileError(f"another run is writing {target} now; wait until it is done, or choose another path")
