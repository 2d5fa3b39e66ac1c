"""`trcompress expand`."""

from __future__ import annotations

from pathlib import Path

import click

from trcompress.cli.options import beside, format_option, overwrite_option, path_argument


@click.command()
@path_argument("artifact", "ARTIFACT")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Output file [default: ARTIFACT with the ending .dense.pt].",
)
@overwrite_option
@format_option
def expand(artifact: Path, out: Path | None, overwrite: bool, format_: str) -> None:
    """Turn an artifact back into an ordinary checkpoint that needs no trcompress.

    Same keys, nesting and dtypes as the checkpoint that was compressed; matrices multiplied out, corrected biases
    kept, tied weights tied. Where units were removed, it says which arguments of the constructor change.

    Example: trcompress expand model.tr.safetensors -o dense.pt
    """
    from trcompress.artifact.expand import expand as run
    from trcompress.cli.console import out as stdout
    from trcompress.cli.console import print_json, say

    made = run(artifact, out or beside(artifact, ".dense.pt"), overwrite=overwrite)
    if format_ == "json":
        shapes = {key: list(tensor.shape) for key, tensor in made.tensors.items()}
        told = {"out": str(made.path), "nesting": list(made.nesting), "tensors": shapes, "notes": list(made.notes)}
        print_json(told)
        return
    for note in made.notes:
        say(f"note: {note}")
    where = f" under {'.'.join(made.nesting)}" if made.nesting else ""
    stdout.print(f"wrote {made.path}: {len(made.tensors):,} tensors{where}", markup=False)
