"""`trcompress reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trcompress.cli.options import command_line, dry_run_option, format_option, overwrite_option
from trcompress.errors import UsageError

if TYPE_CHECKING:
    from trcompress.reproduce.recipe_schema import Recipe


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_", is_flag=True, help="List the recipes, one for each row of the paper.")
@click.option("--data", metavar="PATH", help="A video tree, or an array file; takes the place of data.path.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe: train.epochs=3; repeatable."
)
@click.option("--quick", is_flag=True, help="A rehearsal: the recipe's [quick] table shrinks it to minutes.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for all that comes of it [default: results/NAME]."
)
@overwrite_option
@dry_run_option
@format_option
def reproduce(name: str | None, **given: Any) -> None:
    """Reproduce one row of the paper's tables and figures.

    NAME is a recipe of `--list`, or a .toml file of your own (`trcompress recipe copy` makes one). The folder gets
    the resolved recipe, result.json with the paper's figures beside those measured here, and the pictures with
    their numbers. Video rows take the originals, or a tree made by `trcompress data make-clips`; the result says
    which data it stands for.

    Example: trcompress reproduce synthetic-fig5
    """
    from trcompress.reproduce.recipe import read_recipe

    if given["list_"]:
        _print_list(given["format_"])
        return
    if name is None:
        raise UsageError("reproduce needs the NAME of a recipe; --list shows them")
    recipe = read_recipe(name).resolve(quick=given["quick"], settings=given["settings"], data=given["data"])
    out = given["out"] or Path("results") / (recipe.name + ("-quick" if given["quick"] else ""))
    if given["dry_run"]:
        _print_plan(recipe, out, given["format_"])
    else:
        _run(recipe, out, given)


def _run(recipe: Recipe, out: Path, given: dict[str, Any]) -> None:
    from trcompress.cli.console import print_json, progress_bar, remark
    from trcompress.cli.render_result import print_result
    from trcompress.reproduce import reproduce as run

    with progress_bar(recipe.name) as update:
        done = run(
            recipe,
            out,
            quick=given["quick"],
            overwrite=given["overwrite"],
            command=command_line(),
            progress=update,
        )
    if given["format_"] == "json":
        print_json(done.result.model_dump(mode="json"))
    else:
        print_result(done.result)
    remark(f"wrote {len(done.files)} files to {done.folder}")


def _print_list(format_: str) -> None:
    from trcompress.cli.console import out, print_json
    from trcompress.cli.tables import make_table
    from trcompress.reproduce.recipe import read_recipe, recipe_names

    recipes = [read_recipe(name).resolve() for name in recipe_names()]
    needs = [_needs(recipe) for recipe in recipes]
    if format_ == "json":
        listed = [
            {"name": one.name, "row": one.row, "title": one.title, "data": need}
            for one, need in zip(recipes, needs, strict=True)
        ]
        print_json({"recipes": listed})
        return
    told = [
        f"{one.row}: {one.title}; data: {need.removeprefix('--data ')}"
        for one, need in zip(recipes, needs, strict=True)
    ]
    rows = [[one.name, text] for one, text in zip(recipes, told, strict=True)]
    out.print(make_table(["!recipe", "row of the paper: what is run; data"], rows))


def _needs(recipe: Recipe) -> str:
    """Say which data a recipe takes."""
    data = getattr(recipe, "data", None)
    if data is None:
        return "none"
    if data.path:
        return "ships with trcompress"
    kinds = [kind for kind, options in (("video tree", data.video), ("array file", data.array)) if options]
    return "--data " + " or ".join(kinds)


def _print_plan(recipe: Recipe, folder: Path, format_: str) -> None:
    from trcompress.cli.console import out, print_json, remark
    from trcompress.reproduce.recipe import write_recipe

    if format_ == "json":
        print_json(
            {"dry_run": True, "out": str(folder), "recipe": recipe.model_dump(mode="json", exclude_none=True)}
        )
        return
    remark(f"dry run: would write to {folder}")
    out.print(write_recipe(recipe), markup=False, end="")
