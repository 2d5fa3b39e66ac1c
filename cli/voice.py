"""How much a command says: `-v` and `-q`, which every verb takes. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click


@dataclass
class Voice:
    """What the command that runs was told about its output.

    Attributes:
        verb: the verb, as in "decompose".
        level: -1 with --quiet, 1 with --verbose, else 0.
        documents: JSON documents printed so far.
    """

    verb: str = ""
    level: int = 0
    documents: int = 0

    def reset(self, verb: str) -> None:
        """Begin a command."""
        self.verb, self.level, self.documents = verb, 0, 0


voice = Voice()


def _set_level(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if not given:
        return
    level = 1 if parameter.name == "verbose" else -1
    if voice.level == -level:
        raise click.UsageError("--verbose and --quiet exclude each other: give one of them", context)
    voice.level = level


def add_voice_options(command: click.Command) -> click.Command:
    """Give a verb, and those under it, `--verbose` and `--quiet`; once."""
    if isinstance(command, click.Group):
        for part in command.commands.values():
            add_voice_options(part)
    elif not any(one.name == "quiet" for one in command.params):
        shared: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_level}
        command.params += [
            click.Option(["-v", "--verbose"], help="Say more: candidates, tensors, tracebacks.", **shared),
            click.Option(["-q", "--quiet"], help="Results and errors alone, no progress, no remarks.", **shared),
        ]
    return command
