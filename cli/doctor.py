"""`trcompress doctor`."""

from __future__ import annotations

from typing import Any

import click

from trcompress.cli.options import FORMATS


@click.command()
@click.option(
    "--markdown", is_flag=True, help="Print a block to paste into an issue; the same as --format markdown."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice((*FORMATS, "markdown")),
    default="human",
    show_default=True,
    help="How to print the result on stdout.",
)
def doctor(markdown: bool, format_: str) -> None:
    """Tell what is installed here, and whether it works: versions, devices, threads, extras, a self-test.

    The self-test compresses a small layer, takes a training step and reads back what it wrote. Exit code 1 where it
    fails. Nothing printed names a person, a machine or a path.

    Example: trcompress doctor --markdown
    """
    from trcompress.cli.console import print_json
    from trcompress.cli.diagnosis import diagnose
    from trcompress.errors import TrcompressError

    found = diagnose()
    if markdown or format_ == "markdown":
        click.echo(_markdown(found), nl=False)
    elif format_ == "json":
        print_json(found)
    else:
        _print(found)
    failed = [one["name"] for one in found["self_test"] if not one["ok"]]
    if failed:
        raise TrcompressError(f"the self-test fails here: {', '.join(failed)}; please report it with this output")


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What is told of the machine, as pairs."""
    extras = {
        name: [part for part, version in parts.items() if version is None]
        for name, parts in found["extras"].items()
    }
    return [
        *((name, str(value)) for name, value in found["versions"].items()),
        *((name, str(value)) for name, value in found["machine"].items()),
        *(
            (f"extra {name}", f"lacks {', '.join(lacking)}" if lacking else "installed")
            for name, lacking in extras.items()
        ),
        *((one["name"], "ok" if one["ok"] else one["fault"]) for one in found["self_test"]),
    ]


def _print(found: dict[str, Any]) -> None:
    from trcompress.cli.console import out
    from trcompress.cli.tables import make_table

    out.print(make_table(["", ""], _rows(found)))


def _markdown(found: dict[str, Any]) -> str:
    from trcompress.artifact.rendering.markdown import escape_markdown

    lines = ["| trcompress doctor | |", "|---|---|"]
    lines += [f"| {escape_markdown(name)} | {escape_markdown(value)} |" for name, value in _rows(found)]
    return "\n".join(lines) + "\n"
