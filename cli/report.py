"""`trcompress report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trcompress.cli.options import kind_option, overwrite_option, reading, skip_objects_option, typed
from trcompress.cli.voice import voice

if TYPE_CHECKING:
    from trcompress.artifact.report import Report

FORMATS = ("human", "json", "markdown", "html", "csv")


@click.command()
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--baseline", type=click.Path(path_type=Path), help="The dense checkpoint, to measure against.")
@click.option(
    "--results",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="JSON of `evaluate` or `bench` to show with it; repeatable.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="human",
    show_default=True,
    help="How to print the result: markdown is a model card, html one page with pictures.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write to a file instead of stdout.")
@kind_option
@skip_objects_option
@overwrite_option
def report(artifacts: tuple[Path, ...], format_: str, **given: Any) -> None:
    """Report what compression bought and what it cost.

    Eq. 7 per matrix (compression_ratio), the whole model (model_ratio), bytes on disk, errors with their lower
    bounds, accuracy where it is known, and the lineage; -v lists candidates and tensors too. What finetune left
    beside an artifact (epochs, figures per class) is shown with it. Several artifacts are compared: the front of
    size and accuracy.

    Example: trcompress report model.tr.safetensors --format html -o report.html
    """
    from trcompress.artifact.document import report_document
    from trcompress.artifact.rendering import RENDERERS
    from trcompress.artifact.report import make_report
    from trcompress.artifact.results import check_all_used
    from trcompress.checkpoint import read_checkpoint
    from trcompress.cli.console import say
    from trcompress.util.arguments import refuse_unused
    from trcompress.util.files import check_output, write_text

    results, out = given["results"], given["out"]
    if given["baseline"] is None:
        unused = ("kind", "skip_objects")
        refuse_unused(typed(), unused, "without `baseline`", "name the dense checkpoint that it is about")
    if out is not None:
        inputs = [*artifacts, *results, *filter(None, [given["baseline"]])]
        check_output(out, overwrite=given["overwrite"], keep=inputs)
    check_all_used(results, artifacts)
    baseline = read_checkpoint(given["baseline"], **reading(given)) if given["baseline"] else None
    reports = [make_report(path, baseline=baseline, results=results) for path in artifacts]
    document = report_document(reports)
    if format_ == "human":
        _print(reports, document, out)
        return
    text = RENDERERS[format_](document)
    if out is None:
        voice.documents += format_ == "json"
        click.echo(text, nl=False)
    else:
        write_text(out, text)
        say(f"wrote {out}")


def _print(reports: list[Report], document: dict[str, Any], out: Path | None) -> None:
    from trcompress.cli.console import plain_text, say
    from trcompress.cli.render import print_report, print_reports
    from trcompress.util.files import write_text

    def show() -> None:
        print_report(reports[0]) if len(reports) == 1 else print_reports(reports, document["front"])

    if out is None:
        show()
    else:
        write_text(out, plain_text(show))
        say(f"wrote {out}")
