"""The result of a recipe as tables: the paper's figures beside those measured."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from trcompress.cli.console import out
from trcompress.cli.tables import bold, make_table
from trcompress.reproduce.result import Figure, Result, ResultRow
from trcompress.reproduce.result import Table as Numbers
from trcompress.util.text import visible

VERDICTS = {True: "[green]holds[/green]", False: "[red]does not hold[/red]", None: "cannot be told"}


def print_result(result: Result) -> None:
    """Print figures, claims, further tables and notes."""
    rehearsal = "  (rehearsal: --quick)" if result.quick else ""
    out.print(bold(result.recipe), f" {result.row}: {result.title}{rehearsal}", markup=False)
    out.print(f"data: {result.findings.data}", markup=False)
    if result.findings.rows:
        out.print(_rows(result.findings.rows))
    for row in result.findings.rows:
        if row.note:
            out.print(f"{row.name}: {row.note}", markup=False)
    for claim in result.findings.claims:
        out.print(Text.from_markup(VERDICTS[claim.holds]).append(f": {visible(claim.text)}"))
        out.print(f"  {claim.evidence}", markup=False)
    for table in result.findings.tables:
        out.print(_numbers(table))
    for note in result.findings.notes:
        out.print(f"note: {note}", markup=False)


def _rows(rows: tuple[ResultRow, ...]) -> Table:
    shown = []
    for row in rows:
        spread = f"{row.spread:.4f} ({row.runs})" if row.spread is not None and row.runs > 1 else ""
        shown.append([row.name, figure(row.paper), figure(row.measured), spread])
    return make_table(["", "paper", ">here", ">± over runs"], shown)


def _numbers(numbers: Numbers) -> Table:
    rows = [[figure(cell) if not isinstance(cell, str) else cell for cell in row] for row in numbers.rows]
    return make_table(numbers.columns, rows, title=numbers.title)


def figure(value: Figure | None) -> str:
    """Spell a figure: counts with separators, the rest with four digits."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{figure(one)} ({where})" for where, one in value.items())
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}"
