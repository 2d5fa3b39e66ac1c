"""Table 4: time and memory of the dense matrix, TT, BT and TR, counted while they run, beside the formulas.

The papers' contraction orders are counted for one vector; the evaluation of `trcompress.layers` merges cores once
for all vectors of a batch, so its counts are those of a batch, divided by its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from trcompress.formats import FORMATS, BlockTerm, Format, TensorRing, TensorTrain
from trcompress.layers import TRLinear
from trcompress.reproduce.context import Context
from trcompress.reproduce.counting import CountedCost, cost_of
from trcompress.reproduce.formulas import ORDERS, LayerSizes
from trcompress.reproduce.paper_order import apply_in_order
from trcompress.reproduce.plots import Curve, Plot
from trcompress.reproduce.recipe_fields import Complexity
from trcompress.reproduce.recipe_schema import ComplexityRecipe
from trcompress.reproduce.result import Claim, Findings, ResultRow, Table

OURS = "TR-RNN, trcompress"
METHODS = (*ORDERS, OURS)
FORMAT_OF = {"TT-RNN": TensorTrain.kind, "BT-RNN": BlockTerm.kind, "TR-RNN": TensorRing.kind, OURS: TensorRing.kind}
FLOAT_BYTES = 4
# what is counted -> (how it is read off a CountedCost, the line of Table 4)
QUANTITIES: dict[str, tuple[Callable[[CountedCost], float], str]] = {
    "forward operations": (lambda cost: cost.forward, "forward"),
    "backward operations": (lambda cost: cost.backward, "backward"),
    "forward floats": (lambda cost: cost.forward_bytes / FLOAT_BYTES, "forward_memory"),
    "backward floats": (lambda cost: cost.backward_bytes / FLOAT_BYTES, "backward_memory"),
}
SLACK = 1.1
"""A ratio to the formula may rise by so much along a sweep and still count as level."""


@dataclass(frozen=True)
class Point:
    """One measured method at one size.

    Args:
        sweep: "rank" or "inputs".
        at: R or I.
        method: one of `METHODS`.
        sizes: the letters of Table 4.
        counts: quantity -> multiply-adds or floats per vector.
    """

    sweep: str
    at: int
    method: str
    sizes: LayerSizes
    counts: dict[str, float]

    def formula(self, quantity: str) -> float:
        """Table 4's value, with its constant at 1."""
        order = ORDERS["TR-RNN" if self.method == OURS else self.method]
        return getattr(order, QUANTITIES[quantity][1])[1](self.sizes)

    def ratio(self, quantity: str) -> float:
        """Measured over formula."""
        return self.counts[quantity] / self.formula(quantity)


def run_complexity(recipe: ComplexityRecipe, context: Context) -> Findings:
    """Measure every method over ranks and over sizes."""
    cases = list(_cases(recipe.complexity))
    points = []
    for done, (sweep, at, method, sizes) in enumerate(cases):
        context.progress(f"{method}, {sweep} {at}", done / len(cases))
        batch = recipe.complexity.batch if method == OURS else 1
        points.append(Point(sweep, at, method, sizes, count_costs(method, sizes, batch)))
    return Findings(
        data="made here: random cores and inputs; counts do not depend on values",
        rows=tuple(_growth_rows(points)),
        claims=tuple(_claims(points)),
        tables=tuple(_table(points, sweep) for sweep in ("rank", "inputs")),
        plots=tuple(_plots(points)),
        notes=(
            "operations are multiply-adds of matrix products, as torch's flop counter sees them; floats are the "
            "most alive at once beyond the input and the cores; the dense matrix counts, as in the paper's O(IO)",
            f"the papers' orders are run for one vector, {OURS} for {recipe.complexity.batch} at once, and divided",
            "the papers' backward formulas contract anew for the gradient of each core; reverse-mode "
            "differentiation shares what is common to them",
        ),
    )


def _cases(asked: Complexity) -> Iterator[tuple[str, int, str, LayerSizes]]:
    for rank in asked.ranks:
        sizes = LayerSizes(asked.in_modes, asked.out_modes, rank, asked.blocks)
        yield from (("rank", rank, method, sizes) for method in METHODS if _affordable(method, rank, asked))
    for length in asked.lengths:
        sizes = LayerSizes((4,) * length, (4,) * length, asked.size_rank, asked.blocks)
        for method in METHODS:
            if _affordable(method, asked.size_rank, asked):
                yield "inputs", sizes.inputs, method, sizes


def _affordable(method: str, rank: int, asked: Complexity) -> bool:
    return method != "BT-RNN" or rank <= asked.bt_max_rank


def structure_of(method: str, sizes: LayerSizes) -> Format | None:
    """Return the structure of a method with all ranks alike; None is the dense matrix."""
    if method not in FORMAT_OF:
        return None
    return FORMATS[FORMAT_OF[method]].from_ranks(sizes.in_modes, sizes.out_modes, (sizes.rank,), sizes.blocks)


def count_costs(method: str, sizes: LayerSizes, batch: int) -> dict[str, float]:
    """Count one method at one size, per vector."""
    structure = structure_of(method, sizes)
    cost = cost_of(lambda: _prepared(method, structure, sizes), torch.zeros(batch, sizes.inputs))
    weight = sizes.inputs * sizes.outputs if structure is None else 0
    return {
        name: read(cost) / batch + (weight if "floats" in name else 0) for name, (read, _) in QUANTITIES.items()
    }


def _prepared(method: str, structure: Format | None, sizes: LayerSizes) -> Callable[[Tensor], Tensor]:
    """Return y = x W in one method's way, with parameters of its own."""
    if structure is None:
        weight = torch.zeros(sizes.inputs, sizes.outputs, requires_grad=True)
        return lambda x: x @ weight
    if method == OURS:
        modes = structure.in_modes, structure.out_modes
        return TRLinear(sizes.inputs, sizes.outputs, bias=False, shape=modes, ranks=structure.ranks)
    cores = [torch.zeros(shape, requires_grad=True) for shape in structure.core_shapes]
    return lambda x: apply_in_order(structure, x, cores)


def _series(points: Sequence[Point], sweep: str, method: str) -> list[Point]:
    return [point for point in points if (point.sweep, point.method) == (sweep, method)]


def growth(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Exponent between the last two points: y ~ x^growth.

    Example:
        >>> growth([1, 2, 4], [5, 8, 64])
        3.0
    """
    return log(ys[-1] / ys[-2]) / log(xs[-1] / xs[-2])


def _growth_rows(points: Sequence[Point]) -> Iterator[ResultRow]:
    for sweep, letter in (("rank", "R"), ("inputs", "I = O")):
        for method in METHODS:
            series = _series(points, sweep, method)
            if len(series) < 2:
                continue
            at = [point.at for point in series]
            for quantity, (_, line) in QUANTITIES.items():
                order = getattr(ORDERS["TR-RNN" if method == OURS else method], line)[0]
                yield ResultRow(
                    name=f"{method}, {quantity}: exponent of {letter}",
                    measured=round(growth(at, [point.counts[quantity] for point in series]), 3),
                    paper=round(growth(at, [point.formula(quantity) for point in series]), 3),
                    note=f"paper: O({order})",
                )


def _claims(points: Sequence[Point]) -> Iterator[Claim]:
    """Judge each line of Table 4: the count stays below the formula, or does not outgrow it, in both sweeps."""
    for method in ORDERS:
        for quantity, (_, line) in QUANTITIES.items():
            order = getattr(ORDERS[method], line)[0]
            evidence, held = [], True
            for sweep in ("rank", "inputs"):
                ratios = [point.ratio(quantity) for point in _series(points, sweep, method)]
                half = max(1, len(ratios) // 2)
                held = held and max(ratios[half:], default=0.0) <= max(1.0, SLACK * max(ratios[:half]))
                evidence.append(f"over {sweep} {ratios[0]:.3g} to {ratios[-1]:.3g} times the formula")
            yield Claim(
                text=f"{method}, {quantity}: O({order})", holds=held, evidence="measured: " + "; ".join(evidence)
            )
    yield _beaten(points)


def _beaten(points: Sequence[Point]) -> Claim:
    """Say where the library's evaluation takes fewer operations than the paper's order."""
    paper = {point.at: point for point in _series(points, "rank", "TR-RNN")}
    ours = {point.at: point for point in _series(points, "rank", OURS)}
    name = "forward operations"
    shares = {rank: paper[rank].counts[name] / ours[rank].counts[name] for rank in paper}
    listed = ", ".join(f"R={rank}: {share:.2f}x" for rank, share in shares.items())
    return Claim(
        text="trcompress takes fewer operations for the ring than the paper's left-to-right order, at every rank",
        holds=all(share > 1 for share in shares.values()),
        evidence=f"the paper's order over ours, forward: {listed}",
    )


def _table(points: Sequence[Point], sweep: str) -> Table:
    columns = ["method", "R" if sweep == "rank" else "I = O"]
    for quantity in QUANTITIES:
        columns += [quantity, "/ formula"]
    rows = []
    for method in METHODS:
        for point in _series(points, sweep, method):
            cells: list[str | float | int | None] = [method, point.at]
            for quantity in QUANTITIES:
                cells += [round(point.counts[quantity]), float(f"{point.ratio(quantity):.3g}")]
            rows.append(tuple(cells))
    return Table(title=f"per vector, over {sweep}", columns=tuple(columns), rows=tuple(rows))


def _plots(points: Sequence[Point]) -> Iterator[Plot]:
    for sweep, label in (("rank", "rank R"), ("inputs", "inputs I = outputs O")):
        for quantity in QUANTITIES:
            found = {method: _series(points, sweep, method) for method in METHODS}
            curves = [
                _curve(method, series, [one.counts[quantity] for one in series])
                for method, series in found.items()
                if series
            ]
            ring = found["TR-RNN"]
            curves.append(_curve("TR-RNN, formula", ring, [one.formula(quantity) for one in ring]))
            yield Plot(
                file=f"{quantity.replace(' ', '-')}-over-{sweep}",
                title=f"{quantity} per vector, measured",
                x_label=label,
                y_label=quantity,
                curves=tuple(curves),
                log_x=True,
                log_y=True,
            )


def _curve(name: str, series: Sequence[Point], values: Sequence[float]) -> Curve:
    return Curve(name=name, x=tuple(float(one.at) for one in series), y=tuple(map(float, values)))
