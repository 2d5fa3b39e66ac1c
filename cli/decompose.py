"""`trcompress decompose`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trcompress.cli import options
from trcompress.cli.goal import GOALS, SEARCH, calibration_data, calibration_options, goal_options
from trcompress.decomposition.algorithms import ALGORITHMS
from trcompress.errors import UsageError

if TYPE_CHECKING:
    from trcompress.checkpoint import Checkpoint
    from trcompress.passes.decompose import PlanChoice

DTYPES = ("float16", "bfloat16", "float32", "float64")


_OPTIONS = (
    click.option("--shape", "shapes", multiple=True, metavar="I:O", help="Modes, 4x2x5:4x4; repeat per --layer."),
    click.option("--ranks", multiple=True, metavar="R", help="R (all), R,R0, R0,R1,..., or full."),
    click.option(
        "--exact-ranks", is_flag=True, help="Refuse ranks above what a bond can carry, do not lower them."
    ),
    options.matrices_option(("ih", "hh", "hr")),
    click.option("--layer", "layers", multiple=True, metavar="GLOB", help="What a --shape is for."),
    click.option(
        "--init", type=options.NameOf(ALGORITHMS), default="tr-als", show_default=True, help="How cores start."
    ),
    click.option(
        "--gates",
        type=click.Choice(["fused", "per-gate"]),
        default="fused",
        show_default=True,
        help="One ring for all gates, or one ring each.",
    ),
    click.option("--dtype", type=click.Choice(DTYPES), help="Of the cores [default: the weight's own]."),
)


def ring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe rings and how their cores are found."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@options.path_argument("checkpoint", "CKPT")
@ring_options
@goal_options
@calibration_options
@click.option(
    "--refine",
    type=click.IntRange(0),
    default=0,
    metavar="STEPS",
    help="Then match the dense states.",
)
@options.reading_options
@options.drop_option
@options.allow_nonfinite_option
@options.seed_option
@options.device_option
@options.out_option("CKPT with the ending .tr.safetensors")
@options.overwrite_option
@options.dry_run_option
@options.format_option
def decompose(checkpoint: Path, **given: Any) -> None:
    """Turn the recurrent layers of a dense checkpoint into tensor rings.

    \b
    --ranks 5       every rank is 5
    --ranks 5,10    inner ranks 5, R0 = 10 (the paper's notation)
    --ranks 40,60,48,48    R0,R1,R2,R3 of a shape with four modes
    --ranks full    exact

    Gates are folded into the first output mode, so OUTPUT multiplies to the hidden size (or gates * hidden).
    Without --layer, every layer that the shape fits is compressed and the others are named. Without --shape, a
    goal such as --target-ratio 25 searches shape and ranks first; --shape with --max-error searches the ranks.

    Functions named M:F, with examples: docs/your-code.md.

    Example: trcompress decompose model.pt --shape 4x2x5x8x6x5x3x2:4x4x2x4x2 --ranks 5,10
    """
    from trcompress.checkpoint import read_checkpoint
    from trcompress.cli.console import remark
    from trcompress.util.files import check_output

    out = given["out"] or options.beside(checkpoint, ".tr.safetensors")
    dense = read_checkpoint(checkpoint, **options.reading(given))
    dense.check_compressible(own_network=bool(given["factory"]))
    if not given["dry_run"]:
        check_output(out, overwrite=given["overwrite"], keep=(*dense.files, checkpoint, given["calibrate"]))
    for note in dense.assumed:
        remark(note)
    chosen = choose_plan(dense, given)
    _echo_plan(chosen)
    if given["dry_run"]:
        _print_dry_run(chosen.plan.weights, out, given["format_"])
    else:
        _run(dense, chosen, out, given)


def choose_plan(dense: Checkpoint, given: dict[str, Any]) -> PlanChoice:
    """Find the plan that the options describe, or search for it.

    Raises:
        UsageError: the options describe no plan, or two.
    """
    from trcompress.cli.console import progress_bar
    from trcompress.passes.decompose import check_data, plan_choice

    check_data(given["calibrate"], given["refine"], given["init"])
    goals = {goal: given[goal] for goal in GOALS if given[goal] is not None}
    if given["ranks"] and goals:
        raise UsageError(f"`ranks` and `{next(iter(goals))}` both set the size of the rings: give one of them")
    plan = None
    if given["shapes"] or given["ranks"]:
        ranks = ("1",) if [*goals] == ["max_error"] else given["ranks"]
        plan = read_plan(given["shapes"], ranks, given["layers"], given["gates"], given["exact_ranks"])
    layer = given["layers"][0] if len(given["layers"]) == 1 else "*"
    settings = (
        goals | {name: given[name] for name in ("seed", "matrices", "refine", *SEARCH)} | calibration_data(given)
    )
    with progress_bar("plan") as update:
        return plan_choice(dense, plan, layer=layer, **settings, progress=update)


def read_plan(
    shapes: tuple[str, ...], ranks: tuple[str, ...], layers: tuple[str, ...], gates: str, exact: bool = False
) -> Any:
    """Pair the repeated options into a plan: the k-th shape with the k-th ranks and the k-th layer.

    Raises:
        UsageError: numbers of shapes, ranks and layers that do not pair.
    """
    from trcompress.model.plan import Plan, Rule

    if not shapes or not ranks:
        raise UsageError(
            "decompose needs --shape and --ranks, or a goal such as --target-ratio 25; "
            "`trcompress inspect CKPT` suggests a line, `trcompress plan` searches for one"
        )
    rules = max(len(shapes), len(layers))
    for option, values in (("--shape", shapes), ("--ranks", ranks), ("--layer", layers)):
        if (len(values) > 1 and len(values) != rules) or (option == "--layer" and values and len(values) != rules):
            raise UsageError(
                f"--shape, --ranks and --layer must pair: got {len(shapes)} --shape, {len(ranks)} --ranks, "
                f"{len(layers)} --layer; give one of each per layer, or one --shape for all"
            )
    spread = [values if len(values) == rules else values * rules for values in (shapes, ranks, layers or (None,))]
    return Plan(
        tuple(Rule.parse(s, r, layer=name, gates=gates, exact=exact) for s, r, name in zip(*spread, strict=True))
    )


def _echo_plan(chosen: PlanChoice) -> None:
    """Say on stderr what will be done, before it is done."""
    from trcompress.cli.console import remark
    from trcompress.model.grammar import format_shape
    from trcompress.util.figures import count, ratio

    for weight in chosen.plan.weights:
        structure = weight.structure
        rings = f"{weight.copies} rings of " if weight.copies > 1 else ""
        remark(
            f"{weight.name}: {rings}{format_shape(structure.in_modes, structure.out_modes)} ranks "
            f"{','.join(map(str, structure.ranks))}: {count(weight.parameters)} parameters, "
            f"{ratio(weight.compression_ratio)}"
        )
        for note in weight.notes:
            remark(f"{weight.name}: {note}")
    for note in chosen.notes:
        remark(note)
    for matrix, reason in chosen.plan.skipped:
        if matrix.key not in chosen.dense:  # of those a note says why
            remark(f"{matrix.key} stays dense: {reason}")


def _print_dry_run(weights: Any, out: Path, format_: str) -> None:
    from trcompress.cli.console import out as stdout
    from trcompress.cli.console import print_json
    from trcompress.model.grammar import format_shape

    rows = [
        {
            "name": weight.name,
            "shape": format_shape(weight.structure.in_modes, weight.structure.out_modes),
            "ranks": list(weight.structure.ranks),
            "rings": weight.copies,
            "parameters_before": weight.matrix.parameters,
            "parameters_after": weight.parameters,
            "compression_ratio": weight.compression_ratio,
            "notes": list(weight.notes),
        }
        for weight in weights
    ]
    if format_ == "json":
        print_json({"dry_run": True, "out": str(out), "weights": rows})
    else:
        stdout.print(f"dry run: would write {out}", markup=False)


def _run(dense: Checkpoint, chosen: PlanChoice, out: Path, given: dict[str, Any]) -> None:
    import torch

    from trcompress.cli.console import progress_bar
    from trcompress.cli.render import print_decomposition
    from trcompress.passes.decompose import decompose as run

    settings = {name: given[name] for name in ("init", "seed", "overwrite", "refine")}
    with progress_bar("decompose") as update:
        artifact = run(
            dense,
            chosen,
            out,
            **settings,
            **calibration_data(given),
            device=options.resolve_device(given["device"]),
            dtype=getattr(torch, given["dtype"]) if given["dtype"] else None,
            command=options.command_line(),
            progress=update,
        )
    print_decomposition(artifact, given["format_"])
