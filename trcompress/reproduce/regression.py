"""Fitting y = x W: linear regression, trains and rings by one and the same procedure.

W is linear in each core while the others stay, so each core in turn can be set to its exact least-squares value
(`als`); plain linear regression is the case of a single core. `adam` descends all of them by one optimiser instead.
Neither knows the true W, and nothing is regularised (the paper: "we do not add any regularization").
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, prod

import torch
from torch import Tensor

from trcompress.formats import Format

STOP = 1e-6
_RIDGE = 1e-12


@dataclass(frozen=True)
class Samples:
    """Inputs (N, I) and responses (N, O)."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class RegressionFit:
    """A recovered W and its mean squared error on the samples it was fitted to.

    Args:
        weight: (I, O).
        loss: mean squared error of the responses.
        steps: sweeps or optimiser steps taken.
    """

    weight: Tensor
    loss: float
    steps: int


def linear_regression(samples: Samples) -> RegressionFit:
    """Least squares without structure."""
    weight = torch.linalg.lstsq(samples.x, samples.y).solution
    return RegressionFit(weight, _loss(samples, weight), 1)


def als(samples: Samples, structure: Format, *, sweeps: int, generator: torch.Generator) -> RegressionFit:
    """Fit a structure by exact least squares, core by core, from one random start.

    Args:
        samples: inputs and responses, float64.
        structure: of W, (I, O).
        sweeps: at most so many passes over the cores; stops when the error falls by less than 1e-6 of itself.
        generator: of the start.
    """
    root = torch.linalg.cholesky(samples.x.T @ samples.x).T  # |x W - y|^2 = |root W - target|^2 + constant
    target = torch.linalg.solve_triangular(root.T, samples.x.T @ samples.y, upper=False)
    cores = random_cores(structure, generator, float(target.norm() / root.norm()))
    order = [*range(len(cores)), *range(len(cores) - 2, 0, -1)]
    last, done = float("inf"), 0
    while done < sweeps:
        done += 1
        for k in order:
            cores[k] = _solve_core(structure, cores, k, root, target)
            cores = _balanced(cores)
        error = float((root @ structure.to_dense(cores) - target).norm())
        if last - error < STOP * error:
            break
        last = error
    weight = structure.to_dense(cores)
    return RegressionFit(weight, _loss(samples, weight), done)


def adam(
    samples: Samples,
    structure: Format | None,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
) -> RegressionFit:
    """Fit a structure, or a free matrix where it is None, by Adam on mini-batches; lr falls along a cosine."""
    inputs, outputs = samples.x.shape[1], samples.y.shape[1]
    if structure is None:
        start = torch.randn(inputs, outputs, generator=generator, dtype=samples.x.dtype) / inputs**0.5
        cores = [start]
    else:
        cores = random_cores(structure, generator, inputs**-0.5)
    parameters = [torch.nn.Parameter(core) for core in cores]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + cos(pi * step / steps))
        rows = torch.randint(len(samples.x), (batch_size,), generator=generator)
        weight = parameters[0] if structure is None else structure.to_dense(parameters)
        loss = (samples.x[rows] @ weight - samples.y[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        weight = parameters[0].detach() if structure is None else structure.to_dense(parameters)
        return RegressionFit(weight, _loss(samples, weight), steps)


def random_cores(structure: Format, generator: torch.Generator, rms: float) -> list[Tensor]:
    """Draw Gaussian cores, scaled so that the entries of W have this root mean square."""
    cores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in structure.core_shapes]
    scale = (rms / float(structure.to_dense(cores).square().mean().sqrt())) ** (1 / len(cores))
    return [core * scale for core in cores]


def core_design(structure: Format, cores: list[Tensor], k: int, units: Tensor | None = None) -> Tensor:
    """Return (p, I, O): what W becomes where core k is each of p unit cores, the others staying.

    Args:
        structure: of W.
        cores: as they are.
        k: which core.
        units: (p,) positions in the flattened core; all of them by default.
    """
    size = prod(cores[k].shape)
    unit_cores = torch.eye(size, dtype=cores[k].dtype).reshape(size, *cores[k].shape)
    chosen = unit_cores if units is None else unit_cores[units]
    return torch.func.vmap(lambda unit: structure.to_dense([*cores[:k], unit, *cores[k + 1 :]]))(chosen)


def _solve_core(structure: Format, cores: list[Tensor], k: int, root: Tensor, target: Tensor) -> Tensor:
    """Set one core to its least-squares value; parts of it that reach different outputs share one matrix."""
    parts = _parts(structure, cores[k], k)
    units, columns = parts[0]
    design = (root @ core_design(structure, cores, k, units)[..., columns]).flatten(1)  # (p, I * columns)
    normal = design @ design.T
    ridge = _RIDGE * normal.diagonal().mean()  # proximal: it vanishes where the core stays
    normal.diagonal().add_(ridge)
    old = cores[k].flatten()
    right = [design @ target[:, columns].flatten() + ridge * old[units] for units, columns in parts]
    solved = torch.linalg.solve(normal, torch.stack(right, dim=1))  # (p, parts)
    new = torch.empty_like(old)
    for (units, _), values in zip(parts, solved.unbind(1), strict=True):
        new[units] = values
    return new.reshape(cores[k].shape)


def _parts(structure: Format, core: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
    """Divide a core by the output digit it holds: positions in it, and the outputs they reach.

    Whatever the digit, the positions see the same rest of the network, so their normal equations are equal. A core
    that holds no output mode is one part.
    """
    positions = torch.arange(core.numel())
    outputs = torch.arange(prod(structure.out_modes)).reshape(structure.out_modes)
    held = structure.output_index(k)
    if held is None:
        return [(positions, outputs.flatten())]
    mode, shape, axis = held
    return [
        (positions.reshape(shape).select(axis, digit).flatten(), outputs.select(mode, digit).flatten())
        for digit in range(structure.out_modes[mode])
    ]


def _balanced(cores: list[Tensor]) -> list[Tensor]:
    """Give all cores one norm; their product stays."""
    norms = torch.stack([core.norm() for core in cores])
    mean = norms.log().mean().exp()
    return [core * (mean / norm) for core, norm in zip(cores, norms, strict=True)]


def _loss(samples: Samples, weight: Tensor) -> float:
    return float((samples.x @ weight - samples.y).square().mean())
