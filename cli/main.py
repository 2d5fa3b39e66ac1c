"""The `trcompress` command: finds the verb, and turns a fault into one line and an exit code.

Verbs are imported when they are run, so that `trcompress --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from trcompress.errors import TrcompressError, nearest
from trcompress.version import __version__

# verb -> (module, what `trcompress --help` says of it), in the order of use
VERBS = {
    "inspect": ("trcompress.cli.inspect", "List the recurrent layers of a checkpoint."),
    "plan": ("trcompress.cli.plan", "Search shapes and ranks under a budget."),
    "decompose": ("trcompress.cli.decompose", "Turn a dense checkpoint into a tensor-ring artifact."),
    "finetune": ("trcompress.cli.finetune", "Train an artifact end to end on the target data."),
    "evaluate": ("trcompress.cli.evaluate", "Measure an artifact or a checkpoint on data."),
    "bench": ("trcompress.cli.bench", "Time an artifact against its dense original on this machine."),
    "report": ("trcompress.cli.report", "Report counts, ratios, errors, accuracy and lineage."),
    "data": ("trcompress.cli.data", "Make and extract data sets."),
    "reproduce": ("trcompress.cli.reproduce", "Reproduce one row of the paper's tables and figures."),
    "recipe": ("trcompress.cli.recipe", "Show, check and copy the recipes."),
    "demo": ("trcompress.cli.demo", "Run the whole way once, on data that ships with trcompress."),
}


class VerbGroup(click.Group):
    """A group that imports a verb's module only when the verb is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb, or say which one is nearest."""
        if name not in VERBS:
            raise click.UsageError(f"no such verb: {name!r}{nearest(name, list(VERBS))}", ctx)
        return getattr(import_module(VERBS[name][0]), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="trcompress")
def cli() -> None:
    """Compress pretrained LSTM, GRU and RNN checkpoints with tensor rings.

    \b
    trcompress inspect model.pt
    trcompress decompose model.pt --shape 4x2x5x8x6x5x3x2:4x4x2x4x2 --ranks 5,10
    trcompress finetune model.tr.safetensors --data data.npz --teacher model.pt
    trcompress report model.tr.safetensors

    Results go to stdout, progress and errors to stderr. Exit codes: 0 ok, 2 usage, 3 bad input file,
    4 unsafe file refused, 5 quality gate missed, 130 interrupted.
    """


def main() -> None:
    """Run the command line."""
    try:
        code = cli.main(prog_name="trcompress", standalone_mode=False)
    except TrcompressError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(_fail("interrupted", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    return code
