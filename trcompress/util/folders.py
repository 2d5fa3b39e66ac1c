"""Folders as outputs: whole ones that appear when complete, ones for several files, and ones to work in."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trcompress.errors import OutputFileError
from trcompress.util.claims import beside, exclusive
from trcompress.util.files import faults_named


@contextmanager
def atomic_folder(out: Path, may_replace: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a folder beside `out` that takes its place if the body succeeds, and is removed if not.

    What a killed run left of its own folder is removed; an old folder that it had already put aside is put back.

    Args:
        out: where the folder goes. A link to a folder is written through; a link that leads nowhere is refused.
        may_replace: raises OutputFileError where a folder that is there, and not empty, must stay.

    Raises:
        OutputFileError: it cannot be written, is no folder, or another run is writing it.
    """
    try:
        if out.is_symlink() and not out.exists():
            raise OutputFileError(
                f"the output is a link that leads nowhere: {out}; remove it or choose another path"
            )
        target = Path(os.path.realpath(out))
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target) as alone:
            part, old = beside(target, "part", "" if alone else uuid.uuid4().hex), beside(target, "old")
            if alone:
                _take_over(target, part, old)
            _check(out, target, may_replace)
            part.mkdir()
            try:
                yield part
                _put_in_place(part, target, old)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except (OSError, ValueError) as error:
        if isinstance(error, OutputFileError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OutputFileError(f"cannot write {out}: {reason}; free some space, or choose another path") from error


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside an output, `.NAME.trcompress.work`; what a killed run left of it is removed.

    Raises:
        OSError: it cannot be made.
        OutputFileError: another run works there.
    """
    target = Path(os.path.realpath(out))
    with exclusive(beside(target, "work")) as alone:
        folder = beside(target, "work", "" if alone else uuid.uuid4().hex)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def output_folder(path: str | Path, *, overwrite: bool = False) -> Path:
    """Make a folder for several outputs; one that is there must be empty, but for hidden files, or be allowed.

    Args:
        path: the folder.
        overwrite: files in it may be replaced.

    Raises:
        OutputFileError: it holds files, is no folder, or cannot be made.
    """
    folder = Path(path)
    with faults_named(folder):
        if folder.exists() and not folder.is_dir():
            raise OutputFileError(f"the output must be a folder: {folder} is a file; choose another path")
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
    if held and not overwrite:
        raise OutputFileError(
            f"the output's folder must be new or empty: {folder} holds {held[0]}; "
            "choose another path, or allow `overwrite=True`"
        )
    return folder


def _take_over(target: Path, part: Path, old: Path) -> None:
    """Clear up after a killed run: its part goes; the folder it was about to replace comes back."""
    shutil.rmtree(part, ignore_errors=True)
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _check(out: Path, target: Path, may_replace: Callable[[Path], None]) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputFileError(f"the output must be a folder: {out} is a file; choose another path")
    if any(target.iterdir()):
        may_replace(target)


def _put_in_place(part: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)
