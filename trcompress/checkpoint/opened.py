"""Files as they were when they were opened: tensors are read when they are needed, from what lies there by then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from trcompress.errors import InputFileError

Opened = Mapping[Path, tuple[int, ...]]


def as_opened(paths: Iterable[Path]) -> Opened:
    """Note what files are like now: size, time of the last change and identity; nothing where there is none."""
    return {path: _signature(path) for path in paths}


def refuse_changed(opened: Opened, *, replaced: bool = True) -> None:
    """Refuse to go on with files that were written to since they were opened.

    Args:
        opened: what they were like.
        replaced: also where a new file has the name, or none: what is mapped already stays as it was then.

    Raises:
        InputFileError: one was changed, replaced or removed.
    """
    for path, before in opened.items():
        now = _signature(path)
        if now != before and (replaced or now[2:] == before[2:]):
            raise InputFileError(
                f"{path} was changed while it was read: nothing was written; "
                "run again when no other program writes to it"
            )


def _signature(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev
