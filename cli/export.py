"""`trcompress export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trcompress.cli.options import format_option, overwrite_option, path_argument

if TYPE_CHECKING:
    from trcompress.deploy.export import Export

READOUTS = ("final", "last-step", "mean", "every")


@click.command()
@path_argument("network", "ARTIFACT")
@click.option("--onnx", type=click.Path(path_type=Path), metavar="FILE", help="Write an ONNX file.")
@click.option(
    "--torch-export", type=click.Path(path_type=Path), metavar="FILE", help="Write a torch.export file (.pt2)."
)
@click.option("--int8", is_flag=True, help="Round the ONNX file's weights to int8.")
@click.option("--opset", type=int, default=17, show_default=True, help="Version of the ONNX operators.")
@click.option("--model", metavar="M:F", help="package.module:factory of your own network; runs your code.")
@click.option("--example", metavar="M:F", help="package.module:function that gives inputs of that network.")
@click.option("--stacks", metavar="A,B", help="Recurrent stacks, in order [default: found by sizes and names].")
@click.option("--head", metavar="KEY", help="The last layer's weight, or none [default: found by its shape].")
@click.option("--embedding", metavar="KEY", help="The embedding, or none [default: found by its shape and name].")
@click.option(
    "--readout", type=click.Choice(READOUTS), default="final", show_default=True, help="What the head sees."
)
@click.option("--steps", type=int, default=16, show_default=True, help="Time steps where an exporter must trace.")
@overwrite_option
@format_option
def export(network: Path, format_: str, **given: Any) -> None:
    """Ship a network as ONNX or torch.export, checked at once against PyTorch.

    Recurrent stacks with an embedding and a head are written as standard operators (MatMul, LSTM, GRU, RNN), with
    batch and time dynamic and the sequences' lengths an input. A network of your own (--model) goes through
    torch's exporters, and what they froze is said; --example gives its inputs where they cannot be made up. Every
    file is run at three sizes beside PyTorch before it appears. ARTIFACT may be a dense checkpoint too.

    Functions named M:F, with examples: docs/your-code.md.

    Example: trcompress export model.tr.safetensors --onnx model.onnx --int8
    """
    from trcompress.cli.console import print_json
    from trcompress.deploy.export import export as write

    stacks = tuple(name.strip() for name in (given.pop("stacks") or "").split(",") if name.strip())
    found = write(network, stacks=stacks, **given)
    if format_ == "json":
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: Export) -> None:
    from trcompress.cli.console import out, remark
    from trcompress.cli.tables import make_table
    from trcompress.util.figures import count, size

    for note in found.notes:
        remark(note)
    rows = [
        [one.file, count(one.steps), count(one.batch), f"{one.difference:.2e}", f"{one.largest:.3g}"]
        for one in found.parity
    ]
    columns = ["file", ">steps", ">sequences", ">off PyTorch by", ">largest output"]
    out.print(make_table(columns, rows))
    for kind, taken in found.file_bytes.items():
        path = found.files.get(kind)
        out.print(f"{kind}: {size(taken)}" + (f", wrote {path}" if path else ""), markup=False)
