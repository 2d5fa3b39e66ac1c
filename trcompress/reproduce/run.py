"""Run a recipe, and leave in one folder: the resolved recipe, the result, the pictures and their numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from trcompress.errors import MissingExtraError, UsageError
from trcompress.reproduce.context import Context, silent
from trcompress.reproduce.plots import Heatmap, draw, write_numbers
from trcompress.reproduce.recipe import write_recipe
from trcompress.reproduce.recipe_schema import Data, Recipe
from trcompress.reproduce.result import RESULT_FILE, Findings, Result, write_result
from trcompress.util.files import check_output, write_text
from trcompress.util.folders import output_folder
from trcompress.util.hardware import this_machine
from trcompress.util.progress import Progress
from trcompress.version import __version__

RUNNERS = {
    "synthetic": "trcompress.reproduce.synthetic:run_synthetic",
    "complexity": "trcompress.reproduce.complexity:run_complexity",
    "classify": "trcompress.reproduce.classify:run_classify",
    "pipeline": "trcompress.reproduce.pipeline:run_pipeline",
}
"""kind of recipe -> `module:name` of run(recipe, context) -> Findings."""

RECIPE_FILE = "recipe.toml"


@dataclass(frozen=True)
class Reproduced:
    """A result and the files it was written to."""

    result: Result
    folder: Path
    files: tuple[Path, ...]


def reproduce(
    recipe: Recipe,
    out: str | Path,
    *,
    quick: bool = False,
    overwrite: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Reproduced:
    """Run a resolved recipe.

    Args:
        recipe: from `trcompress.reproduce.recipe.read_recipe(...).resolve(...)`.
        out: folder for everything that comes of it; made if it is not there.
        quick: says in the result that this was a rehearsal.
        overwrite: replace what an earlier run left in the folder.
        command: the command line, for the result.
        progress: told what is being done.

    Raises:
        UsageError: the recipe needs data, and names none.
        OutputFileError: the folder holds files, or cannot be made.
    """
    require_data(recipe)
    folder = output_folder(out, overwrite=overwrite)
    for name in (RECIPE_FILE, RESULT_FILE):
        check_output(folder / name, overwrite=True, keep=[getattr(getattr(recipe, "data", None), "path", None)])
    write_text(folder / RECIPE_FILE, write_recipe(recipe))
    started = time.perf_counter()
    findings = runner_of(recipe)(recipe, Context(folder, progress or silent))
    seconds = time.perf_counter() - started
    files, note = _pictures(folder, findings)
    result = Result(
        recipe=recipe.name,
        title=recipe.title,
        row=recipe.row,
        quick=quick,
        findings=_light(findings, note),
        seeds=recipe.seeds,
        command=command,
        version=__version__,
        machine=this_machine(),
        seconds=round(seconds, 2),
    )
    return Reproduced(result, folder, (folder / RECIPE_FILE, write_result(folder, result), *files))


def require_data(recipe: Recipe) -> None:
    """Refuse a recipe that needs data and names none.

    Raises:
        UsageError: it says what to give.
    """
    data: Data | None = getattr(recipe, "data", None)
    if data is not None and data.path is None:
        raise UsageError(f"{recipe.name} needs `data`: {' '.join(data.about.split()) or 'an array file'}")


def runner_of(recipe: Recipe) -> Callable[[Any, Context], Findings]:
    """Import the function that runs a recipe's kind."""
    module, _, name = RUNNERS[recipe.kind].partition(":")  # type: ignore[attr-defined]
    return getattr(import_module(module), name)


def _pictures(folder: Path, findings: Findings) -> tuple[list[Path], str]:
    numbers = write_numbers(folder, findings.plots, findings.matrix_plots)
    try:
        return numbers + draw(folder, findings.plots, findings.matrix_plots), ""
    except MissingExtraError as error:
        return numbers, str(error)


def _light(findings: Findings, note: str) -> Findings:
    """Leave the matrices to their CSV files."""
    plots = tuple(
        pictures.model_copy(
            update={"matrices": tuple(Heatmap(title=one.title, values=()) for one in pictures.matrices)}
        )
        for pictures in findings.matrix_plots
    )
    notes = (*findings.notes, note) if note else findings.notes
    return findings.model_copy(update={"matrix_plots": plots, "notes": notes})
