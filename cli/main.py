"""The `trcompress` command: finds the verb, and turns a fault into one line and an exit code.

Verbs are imported when they are run, so that `trcompress --help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from contextlib import suppress
from importlib import import_module
from itertools import pairwise

import click

from trcompress.cli.faults import (
    keep_exit_codes,
    machine_fault,
    open_closed_streams,
    print_any_character,
    stop_on_signals,
    was_stopped,
)
from trcompress.cli.verbs import VERBS
from trcompress.cli.voice import add_voice_options, voice
from trcompress.errors import MissingExtraError, TrcompressError, nearest
from trcompress.util.claims import claims_last
from trcompress.util.inputs import inputs_noted, note_input
from trcompress.util.text import visible
from trcompress.util.user_code import code_files
from trcompress.version import __version__

MOST_CHARACTERS = 10_000
"""Of one error: what a file says may be longer than any terminal."""


class VerbGroup(click.Group):
    """A group that imports a verb's module only when the verb is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb, or say which one is nearest."""
        if name not in VERBS:
            raise click.UsageError(f"no such verb: {name!r}{nearest(name, list(VERBS))}", ctx)
        return add_voice_options(getattr(import_module(VERBS[name][0]), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="trcompress")
@click.pass_context
def cli(context: click.Context) -> None:
    """Compress pretrained LSTM, GRU and RNN checkpoints with tensor rings.

    \b
    trcompress inspect model.pt
    trcompress decompose model.pt --shape 4x2x5x8x6x5x3x2:4x4x2x4x2 --ranks 5,10
    trcompress finetune model.tr.safetensors --data data.npz --teacher model.pt
    trcompress report model.tr.safetensors

    Results go to stdout, progress and errors to stderr. Exit codes: 0 ok, 2 usage, 3 bad input file,
    4 unsafe file refused, 5 quality gate missed, 130 interrupted.
    """
    voice.reset(context.invoked_subcommand or "")


UNHEEDED = "LSTM with projections is not supported with oneDNN"
"""A warning of PyTorch's own choice of kernel, which a user can do nothing about."""


def main() -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", UNHEEDED)
    open_closed_streams()
    keep_exit_codes()
    print_any_character()
    stop_on_signals()
    with inputs_noted(), claims_last():
        for word in sys.argv[1:]:  # --model M:F, --data=M:F: the user's code is an input of the command
            for path in code_files(word.rpartition("=")[2]):
                note_input(path)
        code = _run()
    try:
        sys.stdout.flush()
    except OSError as error:  # what was printed has no place to go
        code = _tell(error) or code
    if os.environ.get("WORLD_SIZE", "1") != "1":  # gloo's threads, torn down with the interpreter, can abort it
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    """Run the verb; return the exit code, once a fault has been told."""
    stdout = sys.stdout
    voice.reset("")
    try:
        code = cli.main(prog_name="trcompress", standalone_mode=False)
    except TrcompressError as error:
        cause = error.__cause__
        if isinstance(error, MissingExtraError) and isinstance(cause, Exception) and machine_fault(cause):
            return _tell(cause)  # it is installed, and there is no room to load it
        return _fail(error, str(error), error.exit_code)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(visible(shown.getvalue(), keep="\n"), err=True, nl=False)
        return _told(error, error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        return _fail(stop, "interrupted", 130)
    except SystemExit:
        if sys.stdout is stdout:
            raise
        return _tell(BrokenPipeError())  # click wraps the streams when a pipe is closed, then exits with 1
    except Exception as error:
        # what a signal raised inside a library may come out as that library's own error
        return _fail(error, "interrupted", 130) if was_stopped() else _tell(error)
    return code if isinstance(code, int) else 0


def _tell(error: Exception) -> int:
    """Say a fault of the machine in one line; raise what is a bug. A reader that stopped early is no fault."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    told = machine_fault(error)
    if told is None:
        raise error
    traceback.clear_frames(error.__traceback__)  # what they hold may be all the memory there is
    if isinstance(error, OSError) and not error.filename:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered is lost as well
    return _fail(error, *told)


def _fail(error: BaseException, message: str, code: int) -> int:
    """Say an error in one line; with --verbose where it came from, in JSON mode as a document too."""
    with suppress(MemoryError):  # wording is imported first here
        message = _spelled(message)
    if voice.level > 0:
        click.echo(visible("".join(traceback.format_exception(error)), keep="\n"), err=True, nl=False)
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    return _told(error, message, code)


def _spelled(message: str) -> str:
    from trcompress.cli.console import spelled

    told = visible(spelled(message[: MOST_CHARACTERS + 1]), keep="\n")
    return told if len(message) <= MOST_CHARACTERS else f"{told} ... ({len(message):,} characters)"


def _told(error: BaseException, message: str, code: int) -> int:
    """Print an error as a JSON document where the user asked for JSON and no result was printed."""
    if _asked_for_json(sys.argv[1:]) and not voice.documents:
        from trcompress.cli.console import error_document, print_json

        print_json(error_document(error, message, code))
    return code


def _asked_for_json(words: list[str]) -> bool:
    """Whether the words hold `--format json`; read by hand, since a usage error may come before parsing ends."""
    return "--format=json" in words or ("--format", "json") in pairwise(words)
