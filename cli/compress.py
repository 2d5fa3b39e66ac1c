"""`trcompress compress`: the whole file under one budget."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click

from trcompress.artifact.storage import STORAGE
from trcompress.cli import options
from trcompress.cli.goal import outputs_option
from trcompress.cli.task_options import data_option, path_option, wiring_options
from trcompress.passes.whole import PASSES, STORED_AS


class FileSize(click.ParamType):
    """A number of bytes: 500KB, 1.5MB, 7900."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a number with a unit."""
        from trcompress.errors import UsageError
        from trcompress.util.figures import read_size

        try:
            return read_size(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def budget_options(command: Any) -> Any:
    """Add `--target-size` and `--target-ratio-model`."""
    ratio = click.option(
        "--target-ratio-model", type=click.FloatRange(1), metavar="X", help="So many times fewer bytes in all."
    )
    size = click.option("--target-size", type=FileSize(), metavar="SIZE", help="Of the file: 500KB, 1.5MB, 7900.")
    return size(ratio(command))


def whole_options(command: Any) -> Any:
    """Add what may be done to the whole file."""
    for option in reversed(_WHOLE_OPTIONS):
        command = option(command)
    return command


def _names(name: str, known: Collection[str], default: Sequence[str], text: str) -> Any:
    kind = options.NamesOf(known)
    return click.option(f"--{name}", type=kind, default=",".join(default), show_default=True, help=text)


_WHOLE_OPTIONS = (
    _names("passes", PASSES, PASSES, "What may be done."),
    _names("storage", STORAGE, STORED_AS, "How tensors may be stored."),
    options.matrices_option(("ih", "hh")),
    click.option("--units", type=click.IntRange(1), metavar="N", help="Hidden units to keep [default: found]."),
    click.option("--rank", type=click.IntRange(1), metavar="R", help="Of these matrices [default: found]."),
    click.option("--pack", is_flag=True, help="Entropy-code the integers; coarser ones are then tried."),
)


@click.command()
@options.path_argument("checkpoint", "CKPT")
@budget_options
@click.option(
    "--calibrate",
    required=True,
    metavar="DATA",
    help="Inputs of the network: a data file, or package.module:loader of batches; labels are not looked at.",
)
@whole_options
@click.option("--finetune", "training_data", metavar="DATA", help="Train afterwards, aware of the rounding.")
@path_option("--teacher", "FILE", "What that training learns from beside the labels [default: CKPT].")
@click.option("--epochs", type=click.IntRange(1), help="Of that training [default: 10].")
@click.option("--batch-size", type=click.IntRange(1), help="Of that training [default: 32].")
@click.option("--lr", type=float, help="Peak learning rate of that training [default: 0.002].")
@click.option("--sidecar", is_flag=True, help="Write the history of a small file beside it.")
@data_option
@wiring_options
@outputs_option
@options.out_option("CKPT.small.safetensors")
@options.drop_option
@options.allow_nonfinite_option
@options.reading_options
@options.seed_option
@options.overwrite_option
@options.format_option
def compress(checkpoint: Path, **given: Any) -> None:
    """Make the whole file as small as asked, with the least damage to what the network gives.

    Embeddings are folded where that is exact; every tensor is stored as coarsely as the budget asks, the cheapest
    damage first, measured at the outputs on inputs held out. Matrices get a lower rank and layers fewer units only
    where that is measured to be the lesser damage, or with --finetune, where training makes up for it.

    Functions named M:F, with examples: docs/your-code.md.

    Example: trcompress compress model.pt --target-size 500KB --calibrate data.npz -o small.safetensors
    """
    from trcompress.cli.whole import run_compress

    run_compress(checkpoint, given)
