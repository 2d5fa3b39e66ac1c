"""The options of a search for a plan, shared by `plan` and `decompose`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from trcompress.cli.task_options import data_option, head_option, read_data_options

SEARCH = ("effort", "per_weight")
NAMES = {"factory": "model"}
"""Arguments of the library by those of the verbs, where they differ."""
GOALS = ("target_ratio", "max_error", "max_params")

_OPTIONS = (
    click.option(
        "--target-ratio",
        type=float,
        metavar="X",
        help="Eq. 7 of all weights together, as in 25.",
    ),
    click.option("--max-error", type=float, metavar="E", help="Largest relative error of a weight, as in 0.05."),
    click.option("--max-params", type=int, metavar="N", help="Most input-to-hidden parameters in all."),
    click.option(
        "--effort",
        type=click.Choice(["low", "normal", "high"]),
        default="normal",
        show_default=True,
        help="Work that goes into the search; the result depends on it, never on the machine's speed.",
    ),
    click.option("--per-weight", is_flag=True, help="Every weight reaches the ratio by itself."),
)

outputs_option = click.option(
    "--outputs",
    type=click.Choice(["scores", "values", "states"]),
    help="What they are: class scores, numbers, or hidden states instead [default: what is known].",
)

_CALIBRATION = (
    click.option(
        "--calibrate",
        metavar="DATA",
        help="Choose by what the network does on these inputs: a data file, or package.module:loader of batches.",
    ),
    click.option(
        "--model", "factory", metavar="M:F", help="package.module:factory of your own network; runs your code."
    ),
    data_option,
    head_option,
    click.option(
        "--compare",
        type=click.Choice(["final", "every"]),
        help="Steps that are compared: the final state of a sequence, or every step [default: every, of tokens].",
    ),
    outputs_option,
)


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--calibrate`, `--data-option`, `--head`, `--compare` and `--outputs`."""
    for option in reversed(_CALIBRATION):
        command = option(command)
    return command


def calibration_data(given: dict[str, Any]) -> dict[str, Any]:
    """Collect what calibration needs; empty without `--calibrate`.

    Raises:
        UsageError: options of the data without the data.
    """
    from trcompress.data.load import kind_of
    from trcompress.util.arguments import refuse_unused

    if not given["calibrate"]:
        named = {name: given[name] for name in ("data_options", "head", "compare", "outputs", "factory")}
        refuse_unused(
            [NAMES.get(name, name) for name, one in named.items() if one],
            (*named, *NAMES.values()),
            "without `calibrate`",
            "name the inputs to run the network on",
        )
        return {}
    options = read_data_options(given["data_options"])
    if kind_of(given["calibrate"]) != "array":
        options["allow_code"] = True  # the user typed package.module:factory
    named = {"head": given["head"], "compare": given["compare"], "outputs": given["outputs"]}
    named |= {"data_options": options, "model": given["factory"]}
    return {"calibrate": given["calibrate"], **named}


def goal_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--target-ratio`, `--max-error`, `--max-params`, `--effort` and `--per-weight`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
