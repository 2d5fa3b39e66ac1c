"""Fig. 7 from the saved results of Table 1: compression bars and learning curves of all networks together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

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
    bars = Plot(
        file="figure7-compression",
        title="times smaller than the dense LSTM's",
        x_label="",
        y_label="times smaller (logarithmic)",
        curves=tuple(_bars(rows)),
        kind="bars",
        log_y=True,
    )
    panels = [_panel(rows, file, label, data) for file, label in _PANELS.items()]
    return (bars, *(panel for panel in panels if panel.curves))


def _bars(rows: Sequence[Result]) -> Iterator[Curve]:
    """Eq. 7's ratio of every network, and beside it, where the dense one was run too, the whole network's."""
    dense = next((one for one in rows if _name(one) == DENSE), None)
    for one in rows:
        yield _bar(one, "input-to-hidden (Eq. 7)", _figure(one, RATIO))
        for label, row in {"whole network, parameters": WHOLE, "whole network, file bytes": FILE}.items():
            before, after = dense and _figure(dense, row), _figure(one, row)
            if before and after:
                yield _bar(one, label, before / after)


def _bar(result: Result, label: str, ratio: float | None) -> Curve:
    return Curve(name=f"{_name(result)}: {label}", x=(0.0,), y=(ratio or 0.0,), group=_name(result))


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
