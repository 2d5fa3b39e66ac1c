"""Figs. 5 and 6: recover an 81 x 81 W from noisy responses by linear regression, tensor train and tensor ring.

The paper is silent on what "low-rank W" is, on ranks, on the procedure and on what exactly the RMSE is taken of;
a recipe holds the readings that are tried, and each gets its own table and its own verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean, stdev

import torch
from torch import Tensor

from trcompress.formats import FORMATS, Format, TensorRing
from trcompress.reproduce.context import Context
from trcompress.reproduce.plots import Curve, Heatmap, MatrixPlot, Plot
from trcompress.reproduce.recipe_fields import PaperReading, Synthetic
from trcompress.reproduce.recipe_schema import SyntheticRecipe
from trcompress.reproduce.regression import RegressionFit, Samples, adam, als, linear_regression
from trcompress.reproduce.result import Claim, Findings, ResultRow, Table

MODES = (3, 3, 3, 3)
SIZE = 81
METHODS = ("linear", "tensor-train", "open-chain", "tensor-ring")
CLOSE = 0.02


def structure_of(method: str, rank: int) -> Format | None:
    """Return what a method fits: a TT-matrix, a ring opened at R0, a ring; None is a free matrix.

    Example:
        >>> structure_of("tensor-ring", 5).parameters
        600
    """
    if method == "linear":
        return None
    if method == "open-chain":
        return TensorRing.from_ranks(MODES, MODES, (rank, 1))
    return FORMATS[method].from_ranks(MODES, MODES, (rank,))


def true_weight(reading: PaperReading, generator: torch.Generator) -> Tensor:
    """Draw the (81, 81) W of a reading."""
    if reading.weight == "picture":
        distance = (torch.arange(SIZE, dtype=torch.float64) - SIZE // 2).abs()
        weight = (torch.maximum(distance[:, None], distance[None]) // 9) % 2
    elif reading.weight == "matrix":
        left, right = (torch.randn(SIZE, reading.weight_rank, generator=generator).double() for _ in range(2))
        weight = left @ right.T
    else:
        ring = TensorRing(MODES, MODES, (reading.weight_rank,) * 9)
        weight = ring.to_dense([torch.randn(shape, generator=generator).double() for shape in ring.core_shapes])
    return weight * (reading.rms / weight.square().mean().sqrt())


def draw_samples(
    weight: Tensor, count: int, input_variance: float, noise_variance: float, generator: torch.Generator
) -> Samples:
    """Draw x ~ N(0, v I) and y = x W + noise."""
    x = torch.randn(count, SIZE, generator=generator, dtype=torch.float64) * input_variance**0.5
    noise = torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
    return Samples(x, x @ weight + noise * noise_variance**0.5)


def expected_linear_rmse(reading: PaperReading, input_variance: float, noise_variance: float) -> float:
    """Return what theory asks of linear regression: E|W_hat - W|^2 = s^2 / (v (N - I - 1)) per entry.

    Example:
        >>> reading = PaperReading(name="a", about="", weight="ring")
        >>> round(expected_linear_rmse(reading, 0.5, 0.05), 4)
        0.0057
    """
    absolute = (noise_variance / (input_variance * (reading.samples - SIZE - 1))) ** 0.5
    return absolute / (reading.rms if reading.error == "relative" else 1.0)


def recover(reading: PaperReading, method: str, samples: Samples, seed: int) -> RegressionFit:
    """Fit one method: of several starts, the one that fits the samples best."""
    structure = structure_of(method, reading.rank)
    if reading.procedure == "als" and structure is None:
        return linear_regression(samples)
    fits = []
    for start in range(1 if structure is None else reading.starts):
        generator = torch.Generator().manual_seed(10_000 * seed + start)
        if structure is not None and reading.procedure == "als":
            fits.append(als(samples, structure, sweeps=reading.steps, generator=generator))
        else:
            settings = {"steps": reading.steps, "batch_size": reading.batch_size, "lr": reading.lr}
            fits.append(adam(samples, structure, generator=generator, **settings))  # type: ignore[arg-type]
    return min(fits, key=lambda fit: fit.loss)


@dataclass
class _Measured:
    """RMSEs of one reading: (method, noise variance) -> one per seed; and matrices of the first seed."""

    reading: PaperReading
    errors: dict[tuple[str, float], list[float]] = field(default_factory=dict)
    matrices: dict[str, Tensor] = field(default_factory=dict)

    def mean(self, method: str, variance: float) -> float:
        return fmean(self.errors[method, variance])

    def spread(self, method: str, variance: float) -> float:
        errors = self.errors[method, variance]
        return stdev(errors) if len(errors) > 1 else 0.0


def run_synthetic(recipe: SyntheticRecipe, context: Context) -> Findings:
    """Run every reading over noise variances and seeds."""
    settings = recipe.synthetic
    total = len(settings.readings) * len(settings.noise_variances) * len(recipe.seeds)
    measured, done = [], 0
    for reading in settings.readings:
        one = _Measured(reading)
        for variance, seed in _grid(recipe):
            context.progress(f"{reading.name}, noise {variance:g}, seed {seed}", done / total)
            _measure(one, settings, variance, seed, keep=seed == recipe.seeds[0])
            done += 1
        measured.append(one)
    return Findings(
        data="made here: y = x W + noise, x ~ N(0, 0.5 I)",
        rows=tuple(row for one in measured for row in _rows(one, recipe)),
        claims=tuple(claim for one in measured for claim in _claims(one, recipe)),
        tables=tuple(_table(one, settings) for one in measured),
        plots=tuple(_plot(one, settings) for one in measured if len(settings.noise_variances) > 1),
        matrix_plots=tuple(_pictures(one, settings) for one in measured if settings.pictures),
        notes=tuple(f"reading {one.name}: {one.about}" for one in settings.readings),
    )


def _grid(recipe: SyntheticRecipe) -> Iterator[tuple[float, int]]:
    return ((variance, seed) for variance in recipe.synthetic.noise_variances for seed in recipe.seeds)


def _measure(one: _Measured, settings: Synthetic, variance: float, seed: int, *, keep: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = true_weight(one.reading, generator)
    samples = draw_samples(weight, one.reading.samples, settings.input_variance, variance, generator)
    scale = one.reading.rms if one.reading.error == "relative" else 1.0
    for method in METHODS:
        found = recover(one.reading, method, samples, seed).weight
        error = float((found - weight).square().mean().sqrt()) / scale
        one.errors.setdefault((method, variance), []).append(error)
        if keep and variance == settings.claim_variance:
            one.matrices |= {"true W": weight, method: found}


def _rows(one: _Measured, recipe: SyntheticRecipe) -> Iterator[ResultRow]:
    variance = recipe.synthetic.claim_variance
    for method in METHODS:
        note = ""
        if method == "linear" and one.reading.procedure == "als":
            expected = expected_linear_rmse(one.reading, recipe.synthetic.input_variance, variance)
            note = f"theory: {expected:.4f}"
        yield ResultRow(
            name=f"{one.reading.name}: {one.reading.error} RMSE, {method}",
            measured=one.mean(method, variance),
            spread=one.spread(method, variance),
            runs=len(recipe.seeds),
            paper=recipe.paper.get(method),
            note=note,
        )


def _claims(one: _Measured, recipe: SyntheticRecipe) -> Iterator[Claim]:
    """Judge the order, the figures, and the tolerance to noise."""
    variance = recipe.synthetic.claim_variance
    ring, linear, train = (one.errors[method, variance] for method in ("tensor-ring", "linear", "tensor-train"))
    held = sum(a < b < c for a, b, c in zip(ring, linear, train, strict=True))
    means = {method: one.mean(method, variance) for method in METHODS}
    evidence = ", ".join(f"{method} {value:.4f}" for method, value in means.items())
    yield Claim(
        text=f"{one.reading.name}: RMSE of TR < LR < TT at noise variance {variance:g}",
        holds=held == len(ring),
        evidence=f"{evidence}; in this order in {held} of {len(ring)} seeds",
    )
    printed = {method: figure for method, figure in recipe.paper.items() if isinstance(figure, float)}
    if printed:
        off = max(abs(means[method] - figure) for method, figure in printed.items())
        wanted = ", ".join(f"{method} {figure:g}" for method, figure in printed.items())
        yield Claim(
            text=f"{one.reading.name}: the printed figures ({wanted}), within {CLOSE}",
            holds=off <= CLOSE,
            evidence=f"largest distance {off:.3f}",
        )
    noisy = [value for value in recipe.synthetic.noise_variances if value > 0]
    if len(noisy) > 1:
        best = [value for value in noisy if means_order(one, value)]
        yield Claim(
            text=f"{one.reading.name}: the ring has the least RMSE of LR, TT and TR at every noise variance",
            holds=len(best) == len(noisy),
            evidence=f"at {', '.join(f'{value:g}' for value in best) or 'none'} of "
            f"{', '.join(f'{value:g}' for value in noisy)}",
        )


def means_order(one: _Measured, variance: float) -> bool:
    """Return True where the ring's mean RMSE is below both others'."""
    ring = one.mean("tensor-ring", variance)
    return ring < one.mean("linear", variance) and ring < one.mean("tensor-train", variance)


def _table(one: _Measured, settings: Synthetic) -> Table:
    structures = {method: structure_of(method, one.reading.rank) for method in METHODS}
    counts = {method: SIZE * SIZE if found is None else found.parameters for method, found in structures.items()}
    columns = [f"{method} ({counts[method]:,} parameters)" for method in METHODS]
    rows: list[tuple[str | float | int | None, ...]] = [
        (variance, *(f"{one.mean(m, variance):.4f} ± {one.spread(m, variance):.4f}" for m in METHODS))
        for variance in settings.noise_variances
    ]
    title = f"{one.reading.name}: {one.reading.error} RMSE of W, rank {one.reading.rank}"
    return Table(title=title, columns=("noise variance", *columns), rows=tuple(rows))


def _plot(one: _Measured, settings: Synthetic) -> Plot:
    variances = settings.noise_variances
    curves = tuple(
        Curve(
            name=method,
            x=variances,
            y=tuple(one.mean(method, variance) for variance in variances),
            spread=tuple(one.spread(method, variance) for variance in variances),
        )
        for method in METHODS
    )
    return Plot(
        file=f"noise-{one.reading.name}",
        title=f"Recovered W against noise: {one.reading.name}",
        x_label="noise variance",
        y_label=f"{one.reading.error} RMSE of W",
        curves=curves,
        log_x=True,
        log_y=True,
    )


def _pictures(one: _Measured, settings: Synthetic) -> MatrixPlot:
    matrices = [
        Heatmap(
            title=name
            if name == "true W"
            else f"{name}: {one.reading.error} RMSE {one.errors[name, settings.claim_variance][0]:.4f}",
            values=tuple(map(tuple, matrix.tolist())),
        )
        for name, matrix in one.matrices.items()
    ]
    title = f"{one.reading.name}: W recovered at noise variance {settings.claim_variance:g}"
    return MatrixPlot(file=f"matrices-{one.reading.name}", title=title, matrices=tuple(matrices))
