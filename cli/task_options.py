"""Options of the verbs that run a classifier on data: which data, and how the file's parts form the classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from trcompress.cli.options import reading, reading_options
from trcompress.errors import UsageError
from trcompress.util.progress import counted

READOUTS = ("final", "last-step", "mean", "every")

data_option = click.option(
    "--data-option",
    "data_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of the data: steps=8, group_key=subject, test_groups=2,4,9, validation_fraction=0.2, ...",
)
head_option = click.option(
    "--head", metavar="KEY", help="The classifier's last layer [default: found by its shape]."
)

_DATA_OPTIONS = (
    click.option(
        "--data",
        required=True,
        metavar="SPEC",
        help="FILE.npz, FILE.safetensors, a folder of videos, or package.module:factory.",
    ),
    data_option,
    click.option(
        "--max-bad-clips",
        type=click.IntRange(min=0),
        metavar="N",
        help="So many clips may be unreadable [default: 0].",
    ),
)

_WIRING_OPTIONS = (
    head_option,
    click.option("--stacks", metavar="A,B", help="Recurrent stacks, in order [default: found by sizes and names]."),
    click.option(
        "--readout",
        type=click.Choice(READOUTS),
        default="final",
        show_default=True,
        help="What the head sees: last states of all directions, the last valid step, or the mean.",
    ),
    click.option(
        "--model", "factory", metavar="M:F", help="package.module:factory of your own network; runs your code."
    ),
)


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--data`, `--data-option`, `--max-bad-clips`, `--head`, `--stacks`, `--readout`, `--model` and
    how a dense checkpoint is read."""
    command = reading_options(command)
    for option in reversed((*_DATA_OPTIONS, *_WIRING_OPTIONS)):
        command = option(command)
    return command


def wiring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--head`, `--stacks`, `--readout` and `--model`: how the file's parts form the network."""
    for option in reversed(_WIRING_OPTIONS):
        command = option(command)
    return command


def read_data_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Turn `KEY=VALUE` texts into keyword arguments of `load_data`.

    Raises:
        UsageError: not of this form, or a key twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or key in values:
            fault = "is given twice" if key in values else "has no ="
            raise UsageError(f"--data-option takes KEY=VALUE, each key once: {pair!r} {fault}")
        values[key] = value
    return values


def read_wiring(given: dict[str, Any]) -> Any:
    """Make the `Wiring` that the options ask for."""
    from trcompress.network.classifier import Wiring

    stacks = tuple(name.strip() for name in (given["stacks"] or "").split(",") if name.strip())
    return Wiring(
        stacks=stacks, head=given["head"], readout=given["readout"], model=given["factory"], **reading(given)
    )


def open_data(given: dict[str, Any]) -> Any:
    """Load what `--data` names, with progress on stderr where it takes long."""
    from trcompress.cli.console import progress_bar
    from trcompress.data import load_data

    options = read_data_options(given["data_options"])
    if given["max_bad_clips"] is not None:
        if "max_bad_clips" in options:
            raise UsageError("--max-bad-clips and --data-option max_bad_clips say the same thing: give one of them")
        options["max_bad_clips"] = given["max_bad_clips"]
    with progress_bar("data") as update:
        return load_data(
            given["data"],
            allow_code=True,
            progress=counted(update),
            **options,
        )


def path_option(name: str, metavar: str, help_: str) -> Callable[[Any], Any]:
    """An input file as an option."""
    return click.option(name, metavar=metavar, type=click.Path(path_type=Path), help=help_)
