"""`trcompress inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trcompress.cli.lines import plan_line
from trcompress.cli.options import format_option, path_argument, reading, reading_options, typed

if TYPE_CHECKING:
    from trcompress.checkpoint import Inspection


@click.command()
@path_argument("checkpoint", "CKPT")
@reading_options
@format_option
def inspect(checkpoint: Path, format_: str, **given: Any) -> None:
    """List the recurrent layers of a checkpoint, and what else is in it; or all that an artifact holds.

    Reads .pt, .pth, .safetensors and .npz without running any code from the file, and suggests a
    `plan` line. Of an artifact it shows every tensor with its form, its storage and its bytes, and where it
    comes from.

    Example: trcompress inspect model.pt
    """
    from trcompress.checkpoint import inspect as look
    from trcompress.checkpoint import is_artifact, read_checkpoint
    from trcompress.cli.console import print_json
    from trcompress.network.model_file import OF_DENSE_FILES
    from trcompress.util.arguments import refuse_unused

    if is_artifact(checkpoint):
        refuse_unused(typed(), (*OF_DENSE_FILES, "ignore_unknown"), "with an artifact", "leave it out")
        from trcompress.artifact.contents import artifact_contents
        from trcompress.cli.render_contents import print_contents

        held = artifact_contents(checkpoint)
        print_json(held.to_dict()) if format_ == "json" else print_contents(held)
        return
    found = look(read_checkpoint(checkpoint, **reading(given)))
    if format_ == "json":
        print_json(found.to_dict() | {"suggestion": plan_line(found.path, found.suggested_ratio)})
    else:
        _print_layers(found)
        _print_rest(found)


def _print_layers(found: Inspection) -> None:
    from trcompress.cli.console import out, say
    from trcompress.cli.tables import make_table
    from trcompress.util.figures import count, size

    head = f"{found.path}: {found.format}, {size(found.size_bytes)}, {count(found.parameters)} parameters"
    out.print(head, markup=False)
    rows = []
    for layer in found.layers:
        projected = f" (projected to {count(layer.proj_size)})" if layer.proj_size else ""
        rows.append(
            [
                layer.weight,
                f"{layer.kind}{' cell' if layer.cell else ''}",
                f"{count(layer.input_size)} -> {count(layer.hidden_size)}{projected}",
                layer.dtype,
                count(layer.weight_parameters),
                count(layer.parameters),
                f"{layer.share:.1%}",
            ]
        )
    columns = ["!weight", "kind", ">sizes", "dtype", ">W_ih", ">layer", ">share"]
    out.print(make_table(columns, rows, title="recurrent layers"))
    for sentence in dict.fromkeys(layer.decided_by for layer in found.layers):
        say(f"kind: {sentence}")


def _print_rest(found: Inspection) -> None:
    from trcompress.cli.console import out, say
    from trcompress.cli.wording import as_options
    from trcompress.util.figures import count

    largest = ", ".join(f"{one.name} {tuple(one.shape)}" for one in found.largest_other)
    out.print(
        f"not recurrent: {count(found.other_tensors)} tensors, {count(found.other_parameters)} parameters"
        + (f"; the largest: {largest}" if largest else ""),
        markup=False,
    )
    for line in _set_aside(found.ignored):
        say(line)
    for stack, keys in found.unknown.items():
        say(f"not understood, inside the layer {stack or '(the root)'!r}: {', '.join(keys)}")
    for name, reason in found.unreadable.items():
        say(f"cannot be kept in an artifact: {name} ({reason})")
    for name, bad in found.nonfinite.items():
        say(f"not finite: {name} holds {count(bad)} NaN or Inf values")
    for group in found.shared:
        out.print(f"tied: {' = '.join(group)}", markup=False)
    for note in found.notes:
        say(f"note: {note}")
    if found.obstacles:
        out.print("\nbefore it can be compressed:", markup=False)
        for text in found.obstacles:
            out.print(f"  {as_options(text, 'decompose')}", markup=False)
        return
    out.print(f"\ntry:\n  {plan_line(found.path, found.suggested_ratio)}", markup=False)


def _set_aside(ignored: Mapping[str, str]) -> list[str]:
    """What is not the model, in a few lines: one for each set of tensors, one for all else."""
    held = {name: why for name, why in ignored.items() if "tensor" in why and "without tensors" not in why}
    rest = ", ".join(f"{name} ({why})" for name, why in ignored.items() if name not in held)
    lines = [f"not the model: {name} ({why})" for name, why in held.items()]
    return [*lines, *([f"not the model, without tensors: {rest}"] if rest else [])]
