"""`trcompress decompose`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trcompress.cli import options
from trcompress.errors import UsageError

INITS = ("tr-als", "tr-svd", "random")
DTYPES = ("float16", "bfloat16", "float32", "float64")


@click.command()
@options.path_argument("checkpoint", "CKPT")
@click.option(
    "--shape", "shapes", multiple=True, metavar="I:O", help="Modes, as in 4x2x5x8:4x4x2; repeat per --layer."
)
@click.option("--ranks", multiple=True, metavar="R", help="R (all), R,R0, R0,R1,..., or full; repeat per --shape.")
@click.option(
    "--layer", "layers", multiple=True, metavar="GLOB", help="Weight, layer or stack that a --shape is for."
)
@click.option("--init", type=click.Choice(INITS), default="tr-als", show_default=True, help="How cores are found.")
@click.option(
    "--gates",
    type=click.Choice(["fused", "per-gate"]),
    default="fused",
    show_default=True,
    help="One ring for all gates, or one ring each.",
)
@options.kind_option
@options.skip_objects_option
@options.seed_option
@options.device_option
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the cores [default: the weight's own].")
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

    Gates are folded into the first output mode, so OUTPUT multiplies to the hidden size (or to gates * hidden).
    Without --layer, every layer that the shape fits is compressed and the others are named.

    Example: trcompress decompose model.pt --shape 4x2x5x8x6x5x3x2:4x4x2x4x2 --ranks 5,10
    """
    from trcompress.checkpoint import read_checkpoint
    from trcompress.files import check_output

    out = given["out"] or checkpoint.with_name(f"{checkpoint.stem}.tr.safetensors")
    plan = read_plan(given["shapes"], given["ranks"], given["layers"], given["gates"])
    dense = read_checkpoint(checkpoint, kind=given["kind"], skip_objects=given["skip_objects"])
    weights, skipped = _resolve(plan, dense)
    if not given["dry_run"]:
        check_output(out, overwrite=given["overwrite"], keep=(checkpoint,))
    _echo_plan(weights, skipped, human=given["format_"] == "human")
    if given["dry_run"]:
        _print_dry_run(weights, out, given["format_"])
    else:
        _run(dense, plan, out, given)


def read_plan(shapes: tuple[str, ...], ranks: tuple[str, ...], layers: tuple[str, ...], gates: str) -> Any:
    """Pair the repeated options into a plan: the k-th shape with the k-th ranks and the k-th layer.

    Raises:
        UsageError: numbers of shapes, ranks and layers that do not pair.
    """
    from trcompress.plan import Plan, Rule

    if not shapes or not ranks:
        raise UsageError("decompose needs --shape and --ranks; `trcompress inspect CKPT` suggests a line")
    rules = max(len(shapes), len(layers))
    for option, values in (("--shape", shapes), ("--ranks", ranks), ("--layer", layers)):
        if (len(values) > 1 and len(values) != rules) or (option == "--layer" and values and len(values) != rules):
            raise UsageError(
                f"--shape, --ranks and --layer must pair: got {len(shapes)} --shape, {len(ranks)} --ranks, "
                f"{len(layers)} --layer; give one of each per layer, or one --shape for all"
            )
    spread = [values if len(values) == rules else values * rules for values in (shapes, ranks, layers or (None,))]
    return Plan(tuple(Rule.parse(s, r, layer=name, gates=gates) for s, r, name in zip(*spread, strict=True)))


def _resolve(plan: Any, dense: Any) -> tuple[Any, Any]:
    from trcompress.compress import slot_of

    slots = [slot_of(layer) for layer in dense.layers]
    return plan.resolve(slots), plan.skipped(slots)


def _echo_plan(weights: Any, skipped: Any, *, human: bool) -> None:
    """Say on stderr what will be done, before it is done."""
    from trcompress.cli.console import count, ratio, remark
    from trcompress.grammar import format_shape

    for weight in weights:
        structure = weight.structure
        rings = f"{weight.copies} rings of " if weight.copies > 1 else ""
        remark(
            f"{weight.name}: {rings}{format_shape(structure.in_modes, structure.out_modes)} ranks "
            f"{','.join(map(str, structure.ranks))}: {count(weight.parameters)} parameters, "
            f"{ratio(weight.compression_ratio)}"
        )
    for slot, reason in skipped:
        remark(f"{slot.name} stays dense: {reason}")


def _print_dry_run(weights: Any, out: Path, format_: str) -> None:
    from trcompress.cli.console import out as stdout
    from trcompress.cli.console import print_json
    from trcompress.grammar import format_shape

    rows = [
        {
            "name": weight.name,
            "shape": format_shape(weight.structure.in_modes, weight.structure.out_modes),
            "ranks": list(weight.structure.ranks),
            "rings": weight.copies,
            "parameters_before": weight.slot.parameters,
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


def _run(dense: Any, plan: Any, out: Path, given: dict[str, Any]) -> None:
    import torch

    from trcompress.artifact import write_artifact
    from trcompress.cli.console import progress_bar
    from trcompress.cli.render import print_decomposition
    from trcompress.compress import decompose_checkpoint

    with progress_bar("decompose") as update:
        artifact = decompose_checkpoint(
            dense,
            plan,
            init=given["init"],
            seed=given["seed"],
            device=options.resolve_device(given["device"]),
            dtype=getattr(torch, given["dtype"]) if given["dtype"] else None,
            command=options.command_line(),
            progress=update,
        )
    artifact.path = write_artifact(out, artifact, overwrite=given["overwrite"])
    print_decomposition(artifact, given["format_"])
