"""Where marks go in the page's pictures; the template draws them. Coordinates are those of the SVG's viewBox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10
from typing import Any

from trcompress.util.figures import size

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34
LABEL = 13
"""Height of a label's line."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point of data.

    Args:
        x: across.
        y: down.
        pointer: JSON pointer of the value it shows.
        kind: index of the line it belongs to, or the role of a single point.
        label: what is written beside it.
        anchor: on which side the label begins.
        label_y: the label's base line.
    """

    x: float
    y: float
    pointer: str
    kind: str = ""
    label: str = ""
    anchor: str = "start"
    label_y: float = 0.0


@dataclass(frozen=True)
class Line:
    """One curve of a chart."""

    name: str
    marks: tuple[Mark, ...]

    @property
    def path(self) -> str:
        """The SVG path through all marks."""
        return "M" + "L".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)


@dataclass(frozen=True)
class Chart:
    """A picture with two axes."""

    title: str
    x_title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Mark, ...] = ()


CURVES = {
    "loss": (("loss", "training"), ("validation_loss", "validation")),
    "accuracy": (("accuracy", "training"), ("validation_accuracy", "validation")),
}


def curve_charts(report: Mapping[str, Any], pointer: str) -> list[Chart]:
    """Draw loss and accuracy over the epochs of fine-tuning; what was not measured is left out."""
    charts = []
    for title, lines in CURVES.items():
        series = {
            name: [
                (k, one["epoch"], one[field], field)
                for k, one in enumerate(report["curves"])
                if one[field] is not None
            ]
            for field, name in lines
        }
        values = [value for rows in series.values() for _, _, value, _ in rows]
        epochs = [epoch for rows in series.values() for _, epoch, _, _ in rows]
        if len(set(epochs)) < 2:
            continue
        x, y = _Axis(min(epochs), max(epochs)), _Axis(min(values), max(values), room=True)
        drawn = tuple(
            Line(name, tuple(Mark(x.across(e), y.up(v), f"{pointer}/curves/{k}/{f}", name) for k, e, v, f in rows))
            for name, rows in series.items()
            if rows
        )
        percent = title == "accuracy"
        charts.append(
            Chart(
                title,
                "epoch",
                drawn,
                tuple(Tick(x.across(value), f"{value:g}") for value in x.ticks(whole=True)),
                tuple(
                    Tick(y.up(value), f"{100 * value:.4g} %" if percent else f"{value:.4g}") for value in y.ticks()
                ),
            )
        )
    return charts


def front_chart(front: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Draw accuracy over the bytes of the whole file (logarithmic); None with fewer than two points."""
    if len(front) < 2:
        return None
    x = _Axis(*_spread([log10(point["bytes"]) for point in front]), room=True)
    y = _Axis(*_spread([point["accuracy"] for point in front]), room=True)
    points = []
    for k, point in enumerate(front):
        across = x.across(log10(point["bytes"]))
        side = "end" if across > WIDTH / 2 else "start"
        label = str(point["name"]).replace("\\", "/").rpartition("/")[2]
        kind = point["role"] + (" best" if point["best"] else "")
        points.append(Mark(across, y.up(point["accuracy"]), f"/front/{k}/accuracy", kind, _shortened(label), side))
    points = _apart(points)
    best = sorted((mark for mark in points if mark.kind.endswith("best")), key=lambda mark: mark.x)
    return Chart(
        "accuracy over file size",
        "bytes of the whole file",
        (Line("front", tuple(best)),) if len(best) > 1 else (),
        tuple(Tick(x.across(log10(value)), _round_size(value)) for value in _round_sizes(x.low, x.high)),
        tuple(Tick(y.up(value), f"{100 * value:.4g} %") for value in y.ticks()),
        tuple(points),
    )


def _round_sizes(low: float, high: float) -> list[int]:
    """Sizes between two powers of ten, of as many first digits as leave at most four.

    Example:
        >>> _round_sizes(4.3, 6.0), _round_sizes(4.3, 4.5)
        ([30000, 100000, 300000, 1000000], [20000, 25000, 30000])
    """
    powers = range(floor(low), ceil(high) + 1)
    narrow = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    for digits in (narrow, (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            round(digit * 10**power) for power in powers for digit in digits if low <= log10(digit) + power <= high
        ]
        if len(found) <= 4:
            return found
    return found[:: ceil(len(found) / 4)]


def _round_size(value: int) -> str:
    return size(value).replace(".0 ", " ")


class _Axis:
    """A linear scale from data to the plot's inside."""

    def __init__(self, low: float, high: float, *, room: bool = False) -> None:
        span = (high - low) or abs(high) or 1.0
        self.low, self.high = (low - 0.06 * span, high + 0.06 * span) if room else (low, high or low + 1)

    def across(self, value: float) -> float:
        """From the left edge."""
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def up(self, value: float) -> float:
        """From the bottom edge, as SVG counts: downwards."""
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def ticks(self, most: int = 5, *, whole: bool = False) -> list[float]:
        """Round values inside, at most so many."""
        raw = (self.high - self.low) / most
        size_ = 10 ** floor(log10(raw))
        step = next(factor * size_ for factor in (1, 2, 5, 10) if factor * size_ >= raw)
        step = max(1.0, step) if whole else step
        first = ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, floor(self.high / step + 1e-9) + 1)]


def _apart(points: Sequence[Mark]) -> list[Mark]:
    """Give every label a line of its own where points lie close: each goes above those placed before it."""
    placed: list[Mark] = []
    for mark in points:
        line = mark.y - 8
        while any(abs(other.label_y - line) < LABEL and abs(other.x - mark.x) < WIDTH / 2 for other in placed):
            line -= LABEL
        placed.append(replace(mark, label_y=line))
    return placed


def _spread(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.05, high + 0.05)


def _shortened(text: str, most: int = 30) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
