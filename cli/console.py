"""Where words go: results to stdout, progress and remarks to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class _Console(Console):
    """A console that leaves a closed pipe to `main`, which ends quietly; rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error again: rich calls this while it handles a BrokenPipeError."""
        raise


out = _Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
err = _Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False, default=str))


def remark(text: str) -> None:
    """Print a line on stderr; arguments that it names are spelled as options."""
    err.print(spelled(text), markup=False)


def say(text: str) -> None:
    """Print a sentence of the library on stdout; arguments that it names are spelled as options."""
    out.print(spelled(text), markup=False)


def spelled(text: str) -> str:
    """Spell the arguments that a message names as options of the verb that runs."""
    from trcompress.cli.wording import as_options

    return as_options(text, sys.argv[1] if len(sys.argv) > 1 else "")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """Show a live bar on stderr; yields a callback that takes (what, fraction done)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=1.0)

        def update(what: str, fraction: float) -> None:
            bar.update(task, description=what, completed=fraction)

        yield update


def count(number: float) -> str:
    """A count with separators."""
    return f"{number:,.0f}"


def ratio(number: float) -> str:
    """A compression ratio, `34,192.70x`."""
    return f"{number:,.2f}x"


def size(size_bytes: int | None) -> str:
    """Bytes in the unit that reads best."""
    if size_bytes is None:
        return "unknown"
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:,.0f} B" if units[0] == "B" else f"{value:,.1f} {units[0]}"
