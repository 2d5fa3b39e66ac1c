"""Tables that fit the terminal: cells fold, nothing is cut off, and no text is read as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from trcompress.cli.console import out
from trcompress.util.text import visible

NARROW = 8
"""Letters that a column of texts may be folded to, to keep figures in one piece."""

GAP = 3
"""Blanks between two columns."""


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", caption: str = ""
) -> Table:
    """Build a table of plain texts.

    Args:
        columns: heads; one that begins with `>` is of figures, aligned right; one with `!` is of names to copy.
            Both stay in one piece wherever the width allows it.
        rows: cells; a `Text` keeps its style, all else is shown as it is, control characters spelled out.
        title: above the table.
        caption: below it.

    Example:
        >>> make_table(["name", ">bytes"], [["a", "12"]]).row_count
        1
    """
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1),
        title=Text(visible(title)) if title else None,
        title_justify="left",
        caption=Text(visible(caption)) if caption else None,
        caption_justify="left",
        show_header=any(columns),
    )
    cells = [[cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row] for row in rows]
    widths = _widths(columns, cells)
    whole = _figures_fit(columns, widths)
    for column, width in zip(columns, widths, strict=True):
        mark = column[:1] if column[:1] in (">", "!") else ""
        table.add_column(
            Text(visible(column.removeprefix(mark))),
            justify="right" if mark == ">" else "left",
            overflow="fold",
            no_wrap=bool(mark) and whole,
            min_width=min(width, NARROW) if whole else None,
        )
    for row in cells:
        table.add_row(*row)
    return table


def _widths(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> list[int]:
    """Letters that each column would take unfolded."""
    return [max([len(column) - 1, *(row[k].cell_len for row in rows)]) for k, column in enumerate(columns)]


def _figures_fit(columns: Sequence[str], widths: Sequence[int]) -> bool:
    """Return whether all figures fit unfolded beside texts that are folded to a few letters."""
    marked = [column[:1] in (">", "!") for column in columns]
    taken = sum(width if figures else min(width, NARROW) for figures, width in zip(marked, widths, strict=True))
    return taken + GAP * (len(columns) - 1) <= out.size.width


def bold(text: object) -> Text:
    """A cell or a line that stands out."""
    return Text(visible(text), style="bold")
