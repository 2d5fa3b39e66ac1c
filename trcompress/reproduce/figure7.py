"""Fig. 7 from the saved results of Table 1: compression bars and learning curves of all networks together."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from trcompress.reproduce.bars import compression_bars
from trcompress.reproduce.classify import FILE, RATIO, WHOLE
from trcompress.reproduce.plots import Curve, Plot
from trcompress.reproduce.result import Result

DENSE = "LSTM"
_PANELS = {"loss": "training loss", "accuracy": "training accuracy", "validation-accuracy": "validation accuracy"}


def figure7(results: Sequence[Result]) -> tuple[Plot, ...]:
    """Draw the rows of Table 1 together; nothing if fewer than two of them were run.

    Args:
        results: any saved results; those of Table 1 on the same data are taken, rehearsals left out.
    """
    rows = [one for one in results if one.row.startswith("Table 1") and not one.quick]
    if len(rows) < 2 or len({one.findings.data for one in rows}) > 1:
        return ()
    rows.sort(key=lambda one: _name(one) != DENSE)
    data = rows[0].findings.data
    bars = compression_bars("figure7-compression", "times smaller than the dense LSTM's", _ratios(rows))
    panels = [_panel(rows, file, label, data) for file, label in _PANELS.items()]
    return (bars, *(panel for panel in panels if panel.curves))


def _ratios(rows: Sequence[Result]) -> dict[str, tuple[float | None, ...]]:
    """Eq. 7's ratio of every network; where the dense one was run too, those of the whole network."""
    dense = next((one for one in rows if _name(one) == DENSE), None)
    return {
        _name(one): (_figure(one, RATIO), *(_smaller(dense, one, name) for name in (WHOLE, FILE))) for one in rows
    }


def _smaller(dense: Result | None, one: Result, name: str) -> float | None:
    before, after = dense and _figure(dense, name), _figure(one, name)
    return before / after if before and after else None


def _figure(result: Result, name: str) -> float | None:
    """The measured figure of a row; None in results that have no such row."""
    return next((row.measured for row in result.findings.rows if row.name == name), None)


def _panel(rows: Sequence[Result], file: str, label: str, data: str) -> Plot:
    """Take the first split of every network: the mean over its seeds, and their standard deviation."""
    curves = [_mean(_name(one), plot.curves) for one in rows for plot in one.findings.plots if plot.file == file]
    return Plot(
        file=f"figure7-{file}",
        title=f"{data}: {label}",
        x_label="epoch",
        y_label=label,
        curves=tuple(curves),
    )


def _mean(name: str, curves: Sequence[Curve]) -> Curve:
    split = _split(curves[0])
    same = [one for one in curves if _split(one) == split and one.x == curves[0].x]
    columns = list(zip(*(one.y for one in same), strict=True))
    return Curve(
        name=f"{name}, {split}, {f'mean of {len(same)} seeds' if len(same) > 1 else '1 seed'}",
        x=curves[0].x,
        y=tuple(map(fmean, columns)),
        spread=tuple(map(stdev, columns)) if len(same) > 1 else (),
    )


def _split(curve: Curve) -> str:
    """The curves of a result are called "<split>, seed <n>"."""
    return curve.name.partition(", seed")[0]


def _name(result: Result) -> str:
    return result.row.rpartition(", ")[2]
