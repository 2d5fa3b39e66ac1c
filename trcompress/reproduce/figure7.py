"""Fig. 7 from the saved results of Table 1: compression bars and learning curves of all networks together."""

from __future__ import annotations

from collections.abc import Sequence

from trcompress.reproduce.plots import Curve, Plot
from trcompress.reproduce.result import Result

RATIO = "compression ratio (Eq. 7)"
_PANELS = {"loss": "training loss", "accuracy": "training accuracy", "validation-accuracy": "validation accuracy"}


def figure7(results: Sequence[Result]) -> tuple[Plot, ...]:
    """Draw the rows of Table 1 together; nothing if fewer than two of them were run.

    Args:
        results: any saved results; those of Table 1 on the same data are taken, rehearsals left out.
    """
    rows = [one for one in results if one.row.startswith("Table 1") and not one.quick]
    if len(rows) < 2 or len({one.findings.data for one in rows}) > 1:
        return ()
    data = rows[0].findings.data
    ratios = {_name(one): row.measured for one in rows for row in one.findings.rows if row.name == RATIO}
    bars = Plot(
        file="figure7-compression",
        title="input-to-hidden compression (Eq. 7)",
        x_label="",
        y_label="times fewer parameters",
        curves=tuple(Curve(name=name, x=(0.0,), y=(ratio or 0.0,)) for name, ratio in ratios.items()),
        kind="bars",
        log_y=True,
    )
    panels = [_panel(rows, file, label, data) for file, label in _PANELS.items()]
    return (bars, *(panel for panel in panels if panel.curves))


def _panel(rows: Sequence[Result], file: str, label: str, data: str) -> Plot:
    """Take the first split and seed of every network."""
    curves = [
        plot.curves[0].model_copy(update={"name": f"{_name(one)}, {plot.curves[0].name}"})
        for one in rows
        for plot in one.findings.plots
        if plot.file == file
    ]
    return Plot(
        file=f"figure7-{file}",
        title=f"{data}: {label}",
        x_label="epoch",
        y_label=label,
        curves=tuple(curves),
    )


def _name(result: Result) -> str:
    return result.row.rpartition(", ")[2]
