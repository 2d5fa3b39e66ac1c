"""The library speaks of arguments, in backticks: `target_ratio`, `kind=lstm`. Here they become options.

The only place where one voice is turned into the other: every message and note passes through `as_options`.
"""

from __future__ import annotations

import re
from importlib import import_module

import click

from trcompress.cli.verbs import VERBS

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
_ALIASES = {
    "data_options": "data_option",
    "calibrate_options": "data_option",
    "exact": "exact_ranks",
    "path": "out",
    "plan": "shape",
}
"""Arguments whose option has another name."""

_ELSEWHERE = {"model": "--model"}
"""What a message may tell of other verbs: how to evaluate a network that `decompose` does not understand."""


def as_options(text: str, verb: str = "") -> str:
    """Turn the arguments that a message names into options of the verb.

    Args:
        text: a message of the library.
        verb: the verb that runs; a name that is no option of it stays as it is.

    Example:
        >>> as_options("`max_error` is relative: got 2; or `overwrite=True`", "decompose")
        '--max-error is relative: got 2; or --overwrite'
    """
    known = options_of(verb)

    def spell(found: re.Match[str]) -> str:
        name, value = found.groups()
        option = known.get(_ALIASES.get(name, name)) or known.get(name) or (value and _ELSEWHERE.get(name))
        if option is None:
            return found.group()
        return option if value in (None, "True") else f"{option} {value}"

    return _ARGUMENT.sub(spell, text)


def options_of(verb: str) -> dict[str, str]:
    """List the options of a verb (and of the verbs under it) by the name of the argument they set."""
    if verb not in VERBS:
        return {}
    command = getattr(import_module(VERBS[verb][0]), verb)
    parts = command.commands.values() if isinstance(command, click.Group) else [command]
    longest = [max(one.opts, key=len) for part in parts for one in part.params if isinstance(one, click.Option)]
    return {option.lstrip("-").replace("-", "_"): option for option in longest}
