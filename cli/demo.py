"""`trcompress demo`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from importlib.resources import as_file, files
from pathlib import Path

import click

from trcompress.cli.options import overwrite_option
from trcompress.errors import OutputFileError, TrcompressError

DATA, DENSE, RING, TUNED = (
    "basic_motions.npz",
    "basic_motions_lstm.safetensors",
    "basic_motions_lstm.tr.safetensors",
    "basic_motions_lstm.tuned.safetensors",
)
ON_DATA = f"--data {DATA} --data-option steps=20"
COMMANDS = (
    f"trcompress inspect {DENSE}",
    f"trcompress decompose {DENSE} --shape 5x6:16x8 --ranks 4 "
    f"--calibrate {DATA} --data-option steps=20 --refine 100 --overwrite",
    f"trcompress evaluate {RING} {ON_DATA} --baseline {DENSE}",
    # of 40 recordings a tenth, the default, would be too few to choose an epoch by
    f"trcompress finetune {RING} {ON_DATA} --data-option validation_fraction=0.25 "
    f"--teacher {DENSE} -o {TUNED} --overwrite",
    f"trcompress evaluate {TUNED} {ON_DATA} --baseline {DENSE}",
    f"trcompress report {TUNED} --baseline {DENSE}",
)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("trcompress-demo"),
    show_default=True,
    help="Folder to work in.",
)
@overwrite_option
def demo(out: Path, overwrite: bool) -> None:
    """Run the whole way once: inspect, decompose, evaluate, fine-tune, evaluate, report.

    The data (BasicMotions: 40 + 40 recordings of four activities) and a dense LSTM trained on it ship with
    trcompress. Every command is printed, so that you can repeat it in the folder.

    Example: trcompress demo
    """
    _prepare(out, overwrite=overwrite)
    click.echo(f"working in {out}", err=True)
    for command in COMMANDS:
        _run(command, out)
    click.echo(f"\nEverything above is in {out}; repeat any line there.", err=True)


def _prepare(out: Path, *, overwrite: bool) -> None:
    """Copy the data and the dense checkpoint, so that the printed commands work as they stand."""
    if out.exists() and not overwrite and any(path.name not in _own(out) for path in out.iterdir()):
        raise OutputFileError(f"the demo's folder holds other files: {out}; choose another --out, or --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    for name in (DATA, DENSE):
        with as_file(files("trcompress.recipes") / name) as source:
            shutil.copyfile(source, out / name)


def _own(out: Path) -> set[str]:
    """Names in the folder that an earlier demo made."""
    return {path.name for path in out.iterdir() if path.name.startswith("basic_motions")}


def _run(command: str, folder: Path) -> None:
    click.secho(f"\n$ {command}", bold=True)
    sys.stdout.flush()
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-P", "-m", *shlex.split(command)], cwd=folder, check=False)
    if done.returncode:
        raise TrcompressError(f"the demo stopped: `{command}` exited with {done.returncode}")
    click.echo(f"({time.perf_counter() - start:.1f} s)", err=True)
