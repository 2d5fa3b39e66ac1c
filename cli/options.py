"""Options that several verbs share, spelled once."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from trcompress.errors import nearest

FORMATS = ("human", "json")


class NameOf(click.ParamType):
    """One of a registry's names, whatever it holds by the time the option is read.

    Args:
        registry: a dict by name, as `trcompress.decomposition.algorithms.ALGORITHMS`.
    """

    name = "name"

    def __init__(self, registry: Collection[str]) -> None:
        self._registry = registry

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Spell the names as click spells choices."""
        return f"[{'|'.join(self._registry)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a known name; another is a usage error that lists them."""
        if value not in self._registry:
            listed = ", ".join(map(repr, self._registry))
            self.fail(f"{value!r} is not one of {listed}{nearest(value, list(self._registry))}.", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete to the names that begin like this."""
        return [CompletionItem(name) for name in self._registry if name.startswith(incomplete)]


class NamesOf(NameOf):
    """Some of a registry's names, separated by commas."""

    name = "names"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Spell the names as they are given."""
        return f"[{','.join(self._registry)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split, and check each."""
        if isinstance(value, tuple):
            return value
        found = tuple(one.strip() for one in str(value).split(",") if one.strip())
        unknown = [one for one in found if one not in self._registry]
        if unknown or not found:
            hint = nearest(unknown[0], list(self._registry)) if unknown else ""
            self.fail(f"must be some of {', '.join(self._registry)}: got {value!r}{hint}", param, ctx)
        return found


format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="human",
    show_default=True,
    help="How to print the result on stdout.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="Where to compute: auto, cpu, cuda, cuda:1, ..."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
kind_option = click.option(
    "--kind",
    metavar="KIND",
    help="Read recurrent layers as lstm, gru, rnn or rnn_relu; or STACK=KIND,STACK=KIND.",
)
skip_objects_option = click.option(
    "--skip-objects", is_flag=True, help="Leave out Python objects beside the weights instead of refusing the file."
)
ignore_unknown_option = click.option(
    "--ignore-unknown",
    multiple=True,
    metavar="KEY",
    help="Tensors (or a glob) inside a layer's module that take no part in its steps.",
)
drop_option = click.option("--drop", multiple=True, metavar="KEY", help="Tensors (or a glob) to leave out.")
allow_nonfinite_option = click.option(
    "--allow-nonfinite", multiple=True, metavar="KEY", help="Tensors (or a glob) that may hold NaN or Inf."
)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--kind`, `--skip-objects` and `--ignore-unknown`: how a dense checkpoint is read."""
    for option in (ignore_unknown_option, skip_objects_option, kind_option):
        command = option(command)
    return command


def reading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the arguments of `read_checkpoint` that were given."""
    names = ("kind", "skip_objects", "ignore_unknown", "drop", "allow_nonfinite")
    return {name: given[name] for name in names if name in given}


def path_argument(name: str, metavar: str) -> Callable[[Any], Any]:
    """An input file; whether it exists and what it is, the library says."""
    return click.argument(name, metavar=metavar, type=click.Path(path_type=Path))


def out_option(what: str) -> Callable[[Any], Any]:
    """The `-o` option."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), help=f"Output file [default: {what}].")


def beside(path: Path, ending: str) -> Path:
    """Where an output goes by default: beside its input, whose ending it replaces.

    Example:
        >>> beside(Path("runs/model.safetensors.index.json"), ".tr.safetensors").name
        'model.tr.safetensors'
    """
    whole = path if path.name else path.resolve()  # `.` has no name
    name = whole.name.removesuffix(".index.json")
    stem = name if whole.is_dir() else Path(name).stem
    return whole.with_name(f"{stem or 'model'}{ending}")


def resolve_device(name: str) -> str:
    """Turn `auto` into `cuda` where there is one, and check the rest.

    Raises:
        UsageError: no such device on this machine.
    """
    import torch

    from trcompress.errors import UsageError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used here: {reason}; try --device cpu") from error
    return name


def typed() -> set[str]:
    """Return the options of the running verb that were typed, by the names of their arguments."""
    context = click.get_current_context()
    source = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is source}


def command_line() -> str:
    """The command as the user typed it, for the lineage."""
    from trcompress.util.text import encodable

    return encodable(shlex.join(["trcompress", *sys.argv[1:]]))


def matrices_option(roles: tuple[str, ...]) -> Any:
    """Add `--matrices`."""
    return click.option(
        "--matrices", type=NamesOf(roles), default="ih", show_default=True, help="Which may be rings."
    )
