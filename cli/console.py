"""Where words go: results to stdout, progress and remarks to stderr; how wide, and how many."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from trcompress.cli.voice import voice
from trcompress.util.text import encodable, visible

SCHEMA_VERSION = 1
"""Of every JSON document on stdout; it rises when a key goes or changes its meaning."""
PIPED_WIDTH = 80


class ResultConsole(Console):
    """A console as wide as COLUMNS says, else as the terminal it writes to, else 80."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and rows."""
        found, columns = super().size, os.environ.get("COLUMNS", "")
        if columns.isdigit() and int(columns) > 0:
            return found._replace(width=int(columns))
        return found if self.is_terminal else found._replace(width=PIPED_WIDTH)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        raise AttributeError("a result console takes its size from COLUMNS and the terminal")

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string, the cells of tables among them, with its control characters spelled out."""
        return super().render_str(visible(text, keep="\n"), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; texts that are not markup have their control characters spelled out, line ends apart."""
        if options.get("markup") is False:
            objects = tuple(visible(one, keep="\n") if isinstance(one, str) else one for one in objects)
        super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Raise the error again, for `main` to end quietly; rich calls this while it handles a BrokenPipeError."""
        raise


out = ResultConsole(highlight=False, soft_wrap=True)
err = ResultConsole(stderr=True, highlight=False)


def is_quiet() -> bool:
    """Whether the user asked for results and errors alone."""
    return voice.level < 0


def is_verbose() -> bool:
    """Whether the user asked for all details."""
    return voice.level > 0


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout: `schema_version`, the verb that made it, and the keys given."""
    document = {"schema_version": SCHEMA_VERSION, "verb": voice.verb, **value}
    voice.documents += 1
    click.echo(json.dumps(encodable(document), indent=2, allow_nan=False, default=str))


def remark(text: str) -> None:
    """Print a line on stderr, unless --quiet; arguments that it names are spelled as options."""
    if not is_quiet():
        err.print(spelled(text), markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a sentence of the library on stdout; arguments that it names are spelled as options."""
    out.print(spelled(text), markup=False)


def spelled(text: str) -> str:
    """Spell the arguments that a message names as options of the verb that runs."""
    from trcompress.cli.wording import as_options

    return as_options(text, voice.verb)


def error_document(error: BaseException, message: str, exit_code: int) -> dict[str, Any]:
    """An error as the value of the key `error` of a JSON document."""
    return {"error": {"type": type(error).__name__, "message": message, "exit_code": exit_code}}


def plain_text(show: Callable[[], None]) -> str:
    """Collect what a function prints on stdout's console, without colours."""
    with out.capture() as captured:
        show()
    return click.unstyle(captured.get())


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """Show a live bar on stderr; yields a callback that takes (what, fraction done)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=is_quiet()) as bar:
        task = bar.add_task(visible(title), total=1.0)

        def update(what: str, fraction: float) -> None:
            bar.update(task, description=visible(what), completed=fraction)

        yield update
