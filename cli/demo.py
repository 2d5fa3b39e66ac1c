"""`trcompress demo`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trcompress.cli.options import overwrite_option
from trcompress.errors import TrcompressError

if TYPE_CHECKING:
    from trcompress.artifact.report import Report

DATA, DENSE = "motion_clips.npz", "motion_clips_lstm.safetensors"
RING, SVD, EXACT = "ring", "svd", "exact"
"""The ring, the truncated SVD of its size, and the dense network in two exact factors, which finetune can train."""
REPORT = "report.html"
TASK = f"--data {DATA} --data-option center=true --data-option validation_fraction=0.15"
"""Frames are centred by the training rows; whole looks are held out to choose the epoch by."""


def commands() -> Iterator[str]:
    """Every command of the demo, in order."""
    yield f"trcompress inspect {DENSE}"
    yield f"trcompress decompose {DENSE} --shape 1728:32 --ranks 1 -o {SVD}.safetensors --overwrite"
    yield f"trcompress decompose {DENSE} --shape 36x48:8x4 --ranks 3 -o {RING}.safetensors --overwrite"
    yield f"trcompress decompose {DENSE} --shape 1728:32 --ranks full -o {EXACT}.safetensors --overwrite"
    for name in (SVD, RING, EXACT):
        yield (
            f"trcompress finetune {name}.safetensors {TASK} --teacher {DENSE} --epochs 12 --batch-size 64 "
            f"-o {name}.tuned.safetensors --overwrite"
        )
    yield (
        f"trcompress report {RING}.tuned.safetensors {SVD}.tuned.safetensors --baseline {DENSE} "
        f"--format html -o {REPORT} --overwrite"
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
    """Compress, fine-tune and compare, once, in under a minute.

    A dense LSTM that tells seven motions in clips of 48 x 36 pixels ships with trcompress, with its data: 2,625
    clips to train on, 875 of other things on other backgrounds to test on. The demo makes it a ring and, beside
    it, a truncated SVD of the same size, fine-tunes both and the dense network alike, and ends with a table and an
    HTML report. Every command is printed, so that you can repeat it in the folder.

    Example: trcompress demo
    """
    from trcompress.cli.console import remark

    _prepare(out, overwrite=overwrite)
    remark(f"working in {out}")
    for command in commands():
        _run(command, out)
    _print_table(out)


def _prepare(out: Path, *, overwrite: bool) -> None:
    """Copy the data and the dense checkpoint, so that the printed commands work as they stand."""
    from trcompress.util.files import atomic_path
    from trcompress.util.folders import output_folder

    output_folder(out, overwrite=overwrite)
    for name in (DATA, DENSE):
        with as_file(files("trcompress.recipes") / name) as source, atomic_path(out / name) as part:
            shutil.copyfile(source, part)


def _run(command: str, folder: Path) -> None:
    click.secho(f"\n$ {command}", bold=True)
    sys.stdout.flush()
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-P", "-m", *shlex.split(command)], cwd=folder, check=False)
    if done.returncode:
        stop = TrcompressError(f"the demo stopped: `{command}` exited with {done.returncode}")
        stop.exit_code = done.returncode if done.returncode > 0 else 128 - done.returncode  # as a shell has it
        raise stop
    click.echo(f"({time.perf_counter() - start:.1f} s)", err=True)


def _print_table(folder: Path) -> None:
    """Print what it came to: whole files, and right answers before and after fine-tuning."""
    from trcompress.artifact.report import make_report
    from trcompress.cli.console import out
    from trcompress.cli.tables import make_table
    from trcompress.util.figures import ratio, share, size

    ring, svd, exact = (make_report(folder / f"{name}.tuned.safetensors") for name in (RING, SVD, EXACT))
    dense_bytes = (folder / DENSE).stat().st_size

    def row(title: str, report: Report) -> list[str]:
        after, measured = report.file_bytes_after or 0, report.metrics
        shares = [share(measured["accuracy_before"]), share(measured["accuracy_after"])]
        return [title, size(after), ratio(dense_bytes / after), *shares]

    rows = [
        ["dense LSTM", size(dense_bytes), ratio(1), share(ring.metrics["accuracy_teacher"]), ""],
        ["dense LSTM, trained as long", size(dense_bytes), ratio(1), "", share(exact.metrics["accuracy_after"])],
        row("truncated SVD, rank 1", svd),
        row("tensor ring, ranks 3", ring),
    ]
    out.print()
    columns = ["", ">whole file", ">smaller", ">before", ">fine-tuned"]
    out.print(make_table(columns, rows, title="right answers on 875 clips of things never trained on"))
    out.print(_verdict(ring, dense_bytes / (ring.file_bytes_after or 1)), markup=False)
    out.print(f"Open {folder / REPORT}; every line above can be repeated in {folder}.", markup=False)


def _verdict(ring: Report, smaller: float) -> str:
    """Say in words how the fine-tuned ring compares with the dense network."""
    evaluations = ring.evaluations
    right = {role: sum(row[k] for k, row in enumerate(evaluations[role]["confusion"])) for role in evaluations}
    difference = right["compressed"] - right["dense"]
    beside = f"{abs(difference)} {'more' if difference >= 0 else 'fewer'} than the dense network"
    return (
        f"\nThe ring's file is {smaller:.1f}x smaller and gets {right['compressed']} of "
        f"{evaluations['compressed']['sequences']} clips right, {beside}."
    )
