"""Pictures of results, each with the numbers behind it: PNG (extra `[plots]`) and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trcompress.errors import MissingExtraError
from trcompress.util.files import atomic_path, write_text
from trcompress.util.strict import StrictModel

COLOURS = ("#1b6ca8", "#c8553d", "#6a994e", "#8e5ea2", "#b08900", "#4f4f4f", "#d17ab0", "#2a9d8f")
"""Told apart in print and by the colour-blind; curves also differ in their markers."""

MARKERS = "osD^vPX*"
_ROUNDING = 1e-10
"""Values this much smaller than the largest are rounding errors."""
SHOWN = 0.98
"""The share of all entries that the colours of matrices span; the rest are outliers, drawn in the end colours."""


class Curve(StrictModel):
    """One line of a picture, or one bar; bars of one `group` share a colour."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] = ()
    group: str = ""


class Plot(StrictModel):
    """One picture of curves or bars; `file` is the stem of its PNG and CSV.

    Attributes:
        kind: "lines" or "bars"; bars have one point per curve.
    """

    file: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    kind: str = "lines"
    log_x: bool = False
    log_y: bool = False


class Heatmap(StrictModel):
    """One picture of a matrix."""

    title: str
    values: tuple[tuple[float, ...], ...]


class MatrixPlot(StrictModel):
    """Matrices side by side on one scale; `file` is the stem of its PNG and CSVs."""

    file: str
    title: str
    matrices: tuple[Heatmap, ...]


def write_numbers(folder: Path, plots: Iterable[Plot], matrix_plots: Iterable[MatrixPlot] = ()) -> list[Path]:
    """Write the numbers of every picture as CSV; needs no extra.

    Returns:
        The files: `<plot.file>.csv` with a line per point, `<plot.file>-<k>.csv` per matrix.
    """
    paths = []
    for plot in plots:
        rows = [
            (curve.name, x, y, curve.spread[k] if curve.spread else "")
            for curve in plot.curves
            for k, (x, y) in enumerate(zip(curve.x, curve.y, strict=True))
        ]
        header = ("curve", plot.x_label, plot.y_label, "standard deviation")
        paths.append(_write_csv(folder / f"{plot.file}.csv", [header, *rows]))
    for pictures in matrix_plots:
        for number, matrix in enumerate(pictures.matrices):
            rounded = [tuple(f"{value:.6g}" for value in row) for row in matrix.values]
            paths.append(_write_csv(folder / f"{pictures.file}-{number}.csv", rounded))
    return paths


def draw(folder: Path, plots: Iterable[Plot], matrix_plots: Iterable[MatrixPlot] = ()) -> list[Path]:
    """Draw every picture as `<plot.file>.png`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figures = [(plot.file, _draw_bars(plot) if plot.kind == "bars" else _draw_lines(plot)) for plot in plots]
    figures += [(pictures.file, _draw_matrices(pictures)) for pictures in matrix_plots]
    paths = []
    for name, figure in figures:
        path = folder / f"{name}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
        paths.append(path)
    return paths


def _write_csv(path: Path, rows: Iterable[Iterable[object]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
    return path


def _figure(width: float, height: float) -> Any:
    """Return an empty figure that needs no display and leaves the user's matplotlib settings alone."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("pictures need matplotlib: run `pip install trcompress[plots]`") from error
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _draw_lines(plot: Plot) -> Any:
    figure = _figure(7, 4.3)
    axes = figure.add_subplot()
    for k, curve in enumerate(plot.curves):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        marked = marker if len(curve.x) <= 40 else None
        style = "--" if curve.name.endswith("formula") else "-"
        axes.plot(
            curve.x, curve.y, style, color=colour, marker=marked, markersize=4, linewidth=1.5, label=curve.name
        )
        if any(curve.spread):
            low = [y - s for y, s in zip(curve.y, curve.spread, strict=True)]
            high = [y + s for y, s in zip(curve.y, curve.spread, strict=True)]
            axes.fill_between(curve.x, low, high, color=colour, alpha=0.15, linewidth=0)
    if plot.log_x:
        axes.set_xscale("symlog", linthresh=_smallest(plot, "x")) if _has_zero(plot) else axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
        _leave_out_rounding(axes, plot)
    axes.legend(frameon=False, fontsize=8)
    return _labelled(figure, axes, plot)


def _leave_out_rounding(axes: Any, plot: Plot) -> None:
    """End a logarithmic axis where values are rounding errors, which would take most of the picture."""
    values = [y for curve in plot.curves for y in curve.y if y > 0]
    if values and min(values) < _ROUNDING * max(values):
        axes.set_ylim(bottom=min(y for y in values if y >= _ROUNDING * max(values)) / 2)


def _draw_bars(plot: Plot) -> Any:
    figure = _figure(7, 1.3 + 0.34 * len(plot.curves))
    axes = figure.add_subplot()
    values = [curve.y[0] for curve in plot.curves]
    groups = list(dict.fromkeys(curve.group or curve.name for curve in plot.curves))
    colours = [COLOURS[groups.index(curve.group or curve.name) % len(COLOURS)] for curve in plot.curves]
    bars = axes.barh(range(len(values)), values, color=colours)
    axes.set_yticks(range(len(values)), [curve.name for curve in plot.curves], fontsize=8)
    axes.bar_label(bars, labels=[f" {times(value)}" for value in values], fontsize=8)
    if plot.log_y:
        _decades(axes, values)
    axes.invert_yaxis()
    axes.set_title(plot.title, fontsize=10)
    axes.set_xlabel(plot.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _decades(axes: Any, values: Sequence[float]) -> None:
    """Begin a logarithmic axis of ratios below 1, so that a bar of "no smaller" shows, and label its decades."""
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, *values), 6 * max(values))
    axes.xaxis.set_major_formatter(lambda value, _: times(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")


def times(value: float) -> str:
    """Spell a ratio: three digits below a hundred, whole numbers above.

    Example:
        >>> times(34192.7), times(1.7349), times(1.0)
        ('34,193x', '1.73x', '1x')
    """
    return f"{value:,.0f}x" if value >= 100 else f"{value:.3g}x"


def colour_scale(matrices: Sequence[Heatmap]) -> tuple[float, float]:
    """Return the one scale of matrices side by side: it spans `SHOWN` of all their entries, and has 0 in its middle
    where both signs matter.

    Returns:
        The entries of the first and of the last colour.

    Example:
        >>> colour_scale([Heatmap(title="", values=((0.0, 1.0),) * 50 + ((1.0, 900.0),))])
        (0.0, 1.0)
    """
    entries = sorted(value for matrix in matrices for row in matrix.values for value in row)
    cut = round(len(entries) * (1 - SHOWN) / 2)
    low, high = entries[cut], entries[-1 - cut]
    if -0.5 * high <= low or low >= 0:
        return low, high
    reach = max(-low, high)
    return -reach, reach


def _beyond(matrix: Heatmap, low: float, high: float) -> float:
    """Share of a matrix's entries beyond a scale."""
    outside = [not low <= value <= high for row in matrix.values for value in row]
    return sum(outside) / len(outside)


def _draw_matrices(pictures: MatrixPlot) -> Any:
    count = len(pictures.matrices)
    figure = _figure(2.6 * count, 3.4)
    low, high = colour_scale(pictures.matrices)
    colours = "RdBu_r" if low == -high else "viridis"
    grid = figure.subplots(1, count, squeeze=False)[0]
    for axes, matrix in zip(grid, pictures.matrices, strict=True):
        shown = axes.imshow(matrix.values, vmin=low, vmax=high, cmap=colours, interpolation="nearest")
        axes.set_title(matrix.title.replace(": ", "\n", 1), fontsize=9)
        axes.set_xlabel(f"{100 * _beyond(matrix, low, high):.1f} % clipped", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(shown, ax=list(grid), fraction=0.012, pad=0.01, extend="both")
    figure.suptitle(
        f"{pictures.title}\none colour scale for all, {low:.3g} to {high:.3g}; entries beyond are clipped to it",
        fontsize=10,
        y=1.0,
    )
    return figure


def _labelled(figure: Any, axes: Any, plot: Plot) -> Any:
    axes.set_title(plot.title, fontsize=10)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _has_zero(plot: Plot) -> bool:
    return any(x == 0 for curve in plot.curves for x in curve.x)


def _smallest(plot: Plot, axis: str) -> float:
    return min(value for curve in plot.curves for value in getattr(curve, axis) if value > 0)
