"""Command lines that a user can paste: the library says what it found, the line is spelled here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
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


REPEATED = {"calibrate": "--calibrate", "factory": "--model", "head": "--head", "compare": "--compare"}
REPEATED |= {"outputs": "--outputs", "kind": "--kind", "skip_objects": "--skip-objects"}
REPEATED |= {"data_options": "--data-option", "ignore_unknown": "--ignore-unknown"}


def repeated_words(given: Mapping[str, Any]) -> list[str]:
    """Spell again how a checkpoint was read and what it was calibrated on, as far as that was said."""
    words: list[str] = []
    for name, option in REPEATED.items():
        value = given.get(name)
        if value is True:
            words.append(option)
        elif value:
            every = value if isinstance(value, list | tuple) else [value]
            words += [word for one in every for word in (option, str(one))]
    return words


def plan_line(path: str | Path, ratio: float) -> str:
    """Spell the `plan` line of a goal."""
    return shlex.join(["trcompress", "plan", str(path), "--target-ratio", f"{ratio:g}"])


def chosen_line(found: NetworkSearch, more: Sequence[str] = ()) -> str:
    """Spell the line of all rings that a search chose, with more words of the user's."""
    line = decompose_line(found.path, found.plan.rules, named=len(found.weights) > 1, roles=_roles(found))
    return " ".join([line, *map(shlex.quote, more)])


def row_line(found: NetworkSearch, row: PlanRow, more: Sequence[str] = ()) -> str:
    """Spell the line of one row, with more words of the user's; the other weights stay dense."""
    line = decompose_line(found.path, [row.named_rule], named=len(found.weights) > 1, roles=_roles(found))
    return " ".join([line, *map(shlex.quote, more)])


def _roles(found: NetworkSearch) -> list[str]:
    return [one.matrix.role for one in found.weights]


def search_with_lines(found: NetworkSearch, more: Sequence[str] = ()) -> dict[str, Any]:
    """Give a search as JSON values, with the command line of the choice and of every row."""
    told = found.to_dict() | {"command": chosen_line(found, more)}
    for weight, one in zip(told["weights"], found.weights, strict=True):
        for shown, row in zip(weight["rows"], one.rows, strict=True):
            shown["command"] = row_line(found, row, more)
    return told
