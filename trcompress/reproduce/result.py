"""What a reproduced row came to: the paper's figures beside ours, on which data, on which machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from trcompress.errors import InputFileError
from trcompress.reproduce.plots import MatrixPlot, Plot
from trcompress.util.bounded_json import check_parts, faults_of
from trcompress.util.files import write_text
from trcompress.util.hardware import Hardware
from trcompress.util.strict import StrictModel

RESULT_FILE = "result.json"
Figure = float | str | dict[str, float | str]


class ResultRow(StrictModel):
    """One figure.

    Attributes:
        name: what it is.
        measured: here; None where nothing here corresponds.
        spread: standard deviation over `runs` runs.
        runs: how many.
        paper: the paper's figure, or several with their places.
        note: anything needed to read the two together.
    """

    name: str
    measured: float | None = None
    spread: float | None = None
    runs: int = 1
    paper: Figure | None = None
    note: str = ""


class Claim(StrictModel):
    """A sentence of the paper, and whether it held here; None where it cannot be told."""

    text: str
    holds: bool | None
    evidence: str


class Table(StrictModel):
    """More numbers than fit in rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]


class Findings(StrictModel):
    """What a runner gives back.

    Attributes:
        data: which data, in words: "made here", "procedural clips ...".
        rows: the figures.
        claims: the paper's sentences.
        tables: further numbers.
        plots: pictures of curves.
        matrix_plots: pictures of matrices.
        notes: what a reader must know.
    """

    data: str
    rows: tuple[ResultRow, ...] = ()
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    matrix_plots: tuple[MatrixPlot, ...] = ()
    notes: tuple[str, ...] = ()


class Result(StrictModel):
    """Findings, and how they came about.

    Attributes:
        recipe: its name.
        title: its title.
        row: which row of the paper.
        quick: a rehearsal, whose figures stand for nothing.
        findings: the figures; matrices are in their own files.
        seeds: one run each.
        command: as typed.
        version: of trcompress; "" where it was not noted.
        machine: where.
        seconds: how long; 0 where it was not noted.
    """

    recipe: str
    title: str
    row: str
    quick: bool
    findings: Findings
    seeds: tuple[int, ...]
    command: str
    version: str = ""
    machine: Hardware
    seconds: Annotated[float, Field(ge=0)] = 0.0


def write_result(folder: Path, result: Result) -> Path:
    """Write `result.json`."""
    path = folder / RESULT_FILE
    write_text(path, result.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    return path


def read_result(path: str | Path) -> Result:
    """Read a `result.json`.

    Raises:
        InputFileError: missing, or not such a file.
    """
    try:
        text = Path(path).read_bytes()
        check_parts(text)
        return Result.model_validate_json(text)
    except OSError as error:
        raise InputFileError(f"no such result: {path} ({error.strerror})") from error
    except ValidationError as error:
        raise InputFileError(f"{path} is not a result of `trcompress reproduce`: {faults_of(error, 5)}") from error
    except ValueError as error:
        raise InputFileError(f"{path} is not a result of `trcompress reproduce`: {error}") from error
