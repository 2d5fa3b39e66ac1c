"""The counts in RELIABILITY.md: sections between markers, written by the campaigns that counted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def write_section(path: Path, name: str, lines: Iterable[str]) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: the file has no such markers.
    """
    text = path.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    body = "\n".join(lines)
    if not marks.search(text):
        raise ValueError(f"{path} has no section {name!r}")
    path.write_text(marks.sub(lambda found: f"{found[1]}{body}\n{found[2]}", text), encoding="utf-8")


def table_of(counts: Mapping[str, int], columns: Sequence[str], first: str) -> list[str]:
    """Lay `{"row: column": count}` out as a Markdown table with a last row of sums.

    Example:
        >>> table_of({"a: x": 1, "b: y": 2}, ("x", "y"), "what")[2:]
        ['| a | 1 | 0 |', '| b | 0 | 2 |', '| **all** | **1** | **2** |']
    """
    rows = sorted({key.rpartition(": ")[0] for key in counts})
    cells = [[counts.get(f"{row}: {column}", 0) for column in columns] for row in rows]
    sums = [sum(column) for column in zip(*cells, strict=True)]
    lines = [f"| {first} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [
        f"| {row} | {' | '.join(f'{one:,}' for one in line)} |" for row, line in zip(rows, cells, strict=True)
    ]
    return [*lines, f"| **all** | {' | '.join(f'**{one:,}**' for one in sums)} |"]
