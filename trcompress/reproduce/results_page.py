"""RESULTS.md: every saved result as Markdown, with the machine, seeds, versions and exact commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from trcompress.reproduce.result import RESULT_FILE, Claim, Figure, Result, ResultRow, Table, read_result
from trcompress.util.hardware import Hardware

_VERDICTS = {True: "holds", False: "**does not hold**", None: "cannot be told"}
_MOST_ROWS = 40


def find_results(folder: str | Path) -> list[tuple[Path, Result]]:
    """Read every `result.json` in a folder and the folders in it, in the order of the paper's rows.

    Raises:
        InputFileError: one of them is damaged.
    """
    found = [(path.parent, read_result(path)) for path in sorted(Path(folder).rglob(RESULT_FILE))]
    return sorted(found, key=lambda pair: (_place(pair[1].row), pair[1].recipe))


def results_page(
    found: Sequence[tuple[Path, Result]],
    base: str | Path,
    pictures: Sequence[Path] = (),
    summary: Sequence[tuple[str, str, str]] = (),
    missing: Sequence[str] = (),
) -> str:
    """Render results as one page.

    Args:
        found: folders and results, in order.
        base: the page's folder; pictures are linked from there.
        pictures: of several results together, shown at the end.
        summary: for a reader in a hurry: (what, what came out, recipe of the section) each.
        missing: commands whose results are not here.
    """
    base = Path(base)
    parts = [
        "# Results",
        "",
        "Generated from the saved results by `python benchmarks/results.py`; not edited by hand. Each section is",
        "one run, with its command, seeds and machine. Procedural clips are rendered by `trcompress data",
        "make-clips`; they are not UCF11 or HMDB51, and accuracies on them stand beside the paper's only to show",
        "that the path runs. The accuracy of a rehearsal (a short run) stands for nothing. Recipes ran beside",
        "other work: their seconds are no measure of speed.",
        "",
        *_summary(summary),
        "## Contents",
        "",
        *_contents(found),
        *(f"\nNot run here: `{command}`." for command in missing),
    ]
    for folder, result in found:
        parts += ["", *_section(folder, result, base)]
    if pictures:
        parts += ["", "## Table 1 together (Figure 7)"]
    for path in pictures:
        parts += ["", f"![{path.stem}]({_link(path, base)})"]
    return "\n".join(parts) + "\n"


def _summary(lines: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    if lines:
        yield "## In short"
        yield ""
        yield from _grid(
            ("what", "what came out"), [(f"[{what}](#{_anchor(recipe)})", text) for what, text, recipe in lines]
        )
        yield ""


def _contents(found: Sequence[tuple[Path, Result]]) -> Iterator[str]:
    yield from _grid(
        ("section", "row", "data", "run", "claims that hold"),
        [
            (
                f"[{one.recipe}](#{_anchor(one.recipe)})",
                one.row,
                one.findings.data,
                "rehearsal" if one.quick else "whole",
                _score(one.findings.claims),
            )
            for _, one in found
        ],
    )


def _anchor(heading: str) -> str:
    """What GitHub makes of a heading: letters, digits, - and _ alone, in lower case; spaces become -."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _score(claims: Sequence[Claim]) -> str:
    told = [claim for claim in claims if claim.holds is not None]
    return f"{sum(bool(claim.holds) for claim in told)} of {len(told)}" if told else ""


def _section(folder: Path, result: Result, base: Path) -> Iterator[str]:
    yield f"## {result.recipe}"
    yield ""
    yield f"{result.row}: {result.title}." + (" **Rehearsal.**" if result.quick else "")
    yield ""
    yield f"- data: {result.findings.data}"
    yield f"- command: `{result.command}`"
    yield f"- {'; '.join(_run(result))}"
    yield f"- {describe_machine(result.machine)}"
    if result.findings.rows:
        yield ""
        yield from _rows(result.findings.rows)
    if result.findings.claims:
        yield ""
        yield from (f"- {_VERDICTS[one.holds]}: {one.text}. {one.evidence}." for one in result.findings.claims)
    for table in result.findings.tables:
        yield ""
        yield from _table(table)
    for note in result.findings.notes:
        yield ""
        yield f"Note: {note}"
    pictures = [(plot.file, plot.title) for plot in result.findings.plots]
    pictures += [(plot.file, plot.title) for plot in result.findings.matrix_plots]
    for file, title in pictures:
        if (folder / f"{file}.png").is_file():
            yield ""
            yield f"![{title}]({_link(folder / f'{file}.png', base)})"


def _run(result: Result) -> Iterator[str]:
    noted = f"{'seeds' if len(result.seeds) > 1 else 'seed'} {', '.join(map(str, result.seeds))}"
    yield noted if result.seeds else "seed not noted"
    if result.version:
        yield f"trcompress {result.version}"
    if result.seconds:
        yield f"{result.seconds:,.0f} s"


def describe_machine(machine: Hardware) -> str:
    """Describe the machine in one line."""
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB, accelerator: {machine.accelerator}; "
        f"{machine.system}, Python {machine.python}, torch {machine.torch}"
    )


def _rows(rows: Sequence[ResultRow]) -> Iterator[str]:
    cells = [
        (row.name, _figure(row.paper), _figure(row.measured), f"{_figure(row.spread)} ({row.runs})", row.note)
        if row.runs > 1
        else (row.name, _figure(row.paper), _figure(row.measured), "", row.note)
        for row in rows
    ]
    yield from _grid(("", "paper", "here", "± over runs", "note"), cells)


def _table(table: Table) -> Iterator[str]:
    yield f"**{table.title}**"
    yield ""
    shown = table.rows[:_MOST_ROWS]
    yield from _grid(
        table.columns, [tuple(cell if isinstance(cell, str) else _figure(cell) for cell in row) for row in shown]
    )
    if len(table.rows) > len(shown):
        yield ""
        yield f"({len(table.rows) - len(shown)} more rows in `{RESULT_FILE}`)"


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _line(columns)
    yield "|" + "---|" * len(columns)
    yield from (_line(row) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _figure(value: Figure | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{_figure(one)} ({where})" for where, one in value.items())
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}"


def _link(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


def _place(row: str) -> tuple[int, str]:
    """Order rows as the paper has them: figures of the synthetic part, tables, footnotes, the rest."""
    order = ("Figure", "Table", "Equation", "Footnote")
    return next((k for k, word in enumerate(order) if row.startswith(word)), len(order)), row
