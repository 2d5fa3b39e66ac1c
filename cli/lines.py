"""Command lines that a user can paste: the library says what it found, the line is spelled here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trcompress.model.plan import Rule
    from trcompress.search import NetworkSearch, PlanRow


def decompose_line(path: str | Path, rules: Sequence[Rule], *, named: bool, roles: Sequence[str] = ("ih",)) -> str:
    """Spell the `decompose` line of some rings.

    Args:
        path: the checkpoint.
        rules: one for each weight.
        named: name the weights; a network of one weight needs no name.
        roles: of the weights' matrices.

    Returns:
        The line, quoted for a shell.
    """
    words = ["trcompress", "decompose", str(path)]
    for rule in rules:
        words += ["--layer", str(rule.layer)] if named else []
        words += ["--shape", rule.shape, "--ranks", ",".join(map(str, rule.ranks))]
    if set(roles) != {"ih"}:
        words += ["--matrices", ",".join(dict.fromkeys(roles))]
    return shlex.join(words)


def plan_line(path: str | Path, ratio: float) -> str:
    """Spell the `plan` line of a goal."""
    return shlex.join(["trcompress", "plan", str(path), "--target-ratio", f"{ratio:g}"])


def chosen_line(found: NetworkSearch) -> str:
    """Spell the line of all rings that a search chose."""
    return decompose_line(found.path, found.plan.rules, named=len(found.weights) > 1, roles=_roles(found))


def row_line(found: NetworkSearch, row: PlanRow) -> str:
    """Spell the line of one row; the other weights stay dense."""
    return decompose_line(found.path, [row.named_rule], named=len(found.weights) > 1, roles=_roles(found))


def _roles(found: NetworkSearch) -> list[str]:
    return [one.matrix.role for one in found.weights]


def search_with_lines(found: NetworkSearch) -> dict[str, Any]:
    """Give a search as JSON values, with the command line of the choice and of every row."""
    told = found.to_dict() | {"command": chosen_line(found)}
    for weight, one in zip(told["weights"], found.weights, strict=True):
        for shown, row in zip(weight["rows"], one.rows, strict=True):
            shown["command"] = row_line(found, row)
    return told
