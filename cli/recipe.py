"""`trcompress recipe`: show, validate, copy."""

from __future__ import annotations

from pathlib import Path

import click

from trcompress.cli.console import say
from trcompress.cli.options import overwrite_option
from trcompress.errors import InputFileError, TrcompressError


@click.group()
def recipe() -> None:
    """Show, check and copy the recipes that `trcompress reproduce` runs.

    Example: trcompress recipe show ucf11-table1-tr
    """


@recipe.command()
@click.argument("name")
@click.option("--resolved", is_flag=True, help="Every default spelled out, as it is saved with a result.")
@click.option("--quick", is_flag=True, help="With the [quick] table applied; implies --resolved.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change it; implies --resolved.")
def show(name: str, resolved: bool, quick: bool, settings: tuple[str, ...]) -> None:
    """Print a recipe.

    Example: trcompress recipe show synthetic-fig5
    """
    from trcompress.reproduce.recipe import read_recipe, write_recipe
    from trcompress.util.text import visible

    found = read_recipe(name)
    if resolved or quick or settings:
        click.echo(visible(write_recipe(found.resolve(quick=quick, settings=settings)), keep="\n\t"), nl=False)
    else:
        click.echo(visible(found.text.replace("\r\n", "\n"), keep="\n\t"), nl=False)


@recipe.command()
@click.argument("names", nargs=-1, required=True)
def validate(names: tuple[str, ...]) -> None:
    """Check recipes by name or file, and list every fault of each.

    Example: trcompress recipe validate mine.toml
    """
    from trcompress.reproduce.recipe import read_recipe

    faults = []
    for name in names:
        try:
            found = read_recipe(name).resolve()
        except TrcompressError as fault:
            faults.append(str(fault))
        else:
            say(f"{name}: ok ({found.kind}, {found.row})")  # type: ignore[attr-defined]
    if faults:
        raise InputFileError("\n".join(faults))


@recipe.command()
@click.argument("name")
@click.argument("target", required=False, type=click.Path(path_type=Path))
@overwrite_option
def copy(name: str, target: Path | None, overwrite: bool) -> None:
    """Copy a recipe to a file of your own, to change and run.

    Example: trcompress recipe copy ucf11-table1-tr mine.toml
    """
    from trcompress.reproduce.recipe import read_recipe
    from trcompress.util.files import check_output, write_text

    found = read_recipe(name)
    path = check_output(target or Path(f"{Path(name).stem}.toml"), overwrite=overwrite, keep=[name])
    write_text(path, found.text)
    say(str(path))
