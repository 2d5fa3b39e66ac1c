"""`trcompress plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trcompress.cli import options
from trcompress.cli.compress import budget_options, whole_options
from trcompress.cli.goal import GOALS, SEARCH, calibration_data, calibration_options, goal_options
from trcompress.cli.lines import chosen_line, repeated_words, row_line, search_with_lines

if TYPE_CHECKING:
    from trcompress.search import NetworkSearch, WeightSearch

OF_RINGS = (*GOALS, *SEARCH, "layer", "compare")
"""Options that a budget for the whole file does not use."""
OF_FILES = ("passes", "storage", "units", "rank", "pack", "finetune")
"""Options that a goal for the rings does not use."""


@click.command()
@options.path_argument("checkpoint", "CKPT")
@goal_options
@calibration_options
@click.option(
    "--layer", default="*", show_default=True, metavar="GLOB", help="Weights, layers or stacks to plan for."
)
@budget_options
@whole_options
@click.option("--finetune", metavar="DATA", help="Show what `compress` does before it trains on this.")
@options.reading_options
@options.seed_option
@options.format_option
def plan(checkpoint: Path, **given: Any) -> None:
    """Search shapes and ranks under a budget, and print the decompose line of the best; with -v of each.

    Tries mode factorisations (awkward sizes padded), their order and ranks. The truncated SVD is a two-mode ring
    and always among the candidates, so the chosen plan is never worse than SVD at the same count.

    With --target-size or --target-ratio-model it shows the ladder that `compress` would walk for the whole file.

    Functions named M:F, with examples: docs/your-code.md.

    Example: trcompress plan model.pt --target-ratio 25
    """
    from trcompress.checkpoint import read_checkpoint
    from trcompress.cli.console import print_json, progress_bar
    from trcompress.search.plan import plan as search
    from trcompress.util.arguments import refuse_unused

    if given["target_size"] is not None or given["target_ratio_model"] is not None:
        from trcompress.cli.whole import plan_whole

        refuse_unused(
            options.typed(), OF_RINGS, "with `target_size` or `target_ratio_model`", "leave it out, or these"
        )
        plan_whole(checkpoint, given)
        return
    refuse_unused(
        options.typed(),
        OF_FILES,
        "without `target_size` or `target_ratio_model`",
        "give a budget for the whole file",
    )
    dense = read_checkpoint(checkpoint, **options.reading(given))
    settings = {name: given[name] for name in (*GOALS, *SEARCH, "layer", "matrices", "seed")}
    with progress_bar("plan") as update:
        found = search(dense, **settings, **calibration_data(given), progress=update)
    more = repeated_words(given)
    if given["format_"] == "json":
        print_json(search_with_lines(found, more))
    else:
        _print(found, more)


def _print(found: NetworkSearch, more: Sequence[str]) -> None:
    from trcompress.cli.console import out

    for one in found.weights:
        _print_weight(found, one, more)
    if found.measure:
        out.print(f"\noutputs: {found.measure} on held-out examples, all other weights dense", markup=False)
    for note in found.notes:
        out.print(f"\n{note}", markup=False)
    if len(found.weights) > 1:
        out.print("\nall chosen together:", markup=False)
        out.print(f"  {chosen_line(found, more)}", markup=False)


def _print_weight(found: NetworkSearch, one: WeightSearch, repeated: Sequence[str]) -> None:
    from trcompress.cli.console import is_verbose, out
    from trcompress.cli.tables import make_table
    from trcompress.util.figures import count, ratio

    title = f"{one.matrix.key}  {one.matrix.describe()}  ({count(one.tried)} rings tried)"
    measured = any(row.difference is not None for row in one.rows)
    rows = [
        [
            "*" if row is one.chosen else "",
            row.rule.shape + (" (SVD)" if row.is_svd else ""),
            ",".join(map(str, row.rule.ranks)),
            count(row.weight.parameters),
            ratio(row.weight.compression_ratio),
            ratio(found.model_ratio(row)),
            f"{row.error:.4f}",
            f"{row.bound:.4f}",
            *[count(row.operations)] * is_verbose(),
            *["" if row.difference is None else f"{row.difference:.4g}"] * measured,
        ]
        for row in one.rows
    ]
    more = [">MACs/step"] * is_verbose() + [">outputs"] * measured
    columns = ["", "shape", "ranks R0..", ">values", ">Eq. 7", ">model", ">error", ">bound", *more]
    out.print(make_table(columns, rows, title=title))
    out.print(
        f"* chosen: {one.chosen.statement}; truncated SVD of the same count: {one.svd_error:.4f}", markup=False
    )
    svd = min((row for row in one.rows if row.is_svd), key=lambda row: row.error, default=None)
    for row in one.rows:
        if is_verbose() or row is one.chosen or row is svd:
            out.print(f"  {row_line(found, row, repeated)}", markup=False)
