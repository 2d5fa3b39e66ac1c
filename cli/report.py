"""`trcompress report`."""

from __future__ import annotations

from pathlib import Path

import click

from trcompress.cli.options import format_option, path_argument


@click.command()
@path_argument("artifact", "ARTIFACT")
@click.option("--baseline", type=click.Path(path_type=Path), help="The dense checkpoint, to measure against.")
@format_option
def report(artifact: Path, baseline: Path | None, format_: str) -> None:
    """Report what compression bought and what it cost.

    Eq. 7 per layer (compression_ratio), the whole model (model_ratio), parameters before and after by tensor,
    bytes on disk, decomposition errors with their lower bounds, accuracy where it is known, and the lineage.

    Example: trcompress report model.tr.safetensors --baseline model.pt
    """
    from trcompress.artifact.report import make_report
    from trcompress.cli.console import print_json

    result = make_report(artifact, baseline=baseline)
    if format_ == "json":
        print_json(result.to_dict())
    else:
        from trcompress.cli.render import print_report

        print_report(result)
