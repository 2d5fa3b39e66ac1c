"""Gradient steps without labels: the compressed network learns to do on calibration inputs what the dense one does.

Only cores and input biases move. The loss is the difference of the outputs, plus the relative error of the hidden
states of every layer that is compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, pi

import numpy as np
import torch
from torch import Tensor, nn

from trcompress.calibration.lessons import Lesson, lessons
from trcompress.calibration.network import Network, Unit
from trcompress.calibration.outputs import Exam, Judge, relative_difference
from trcompress.calibration.select import Candidate, replaced
from trcompress.calibration.sequences import flat_rows
from trcompress.layers import CoreWeight

STEP_SIZE = 0.07
"""Learning rate, in units of the root mean square of what moves."""
LEAST_SIZE = 0.02
"""Root mean square below which a parameter counts as this large."""
HIDDEN = 20.0
"""Weight of the hidden states beside the outputs: they say more than outputs do, so less is learnt by heart."""
LOOKS = 10
"""How often the held-out difference is measured."""


@dataclass(frozen=True)
class Refined:
    """What refinement reached.

    Args:
        candidates: cores and biases, in the order given.
        before: held-out difference of all weights together, at the start.
        after: the same, of the best state seen: never above `before`.
        steps: taken.
    """

    candidates: tuple[Candidate, ...]
    before: float
    after: float
    steps: int


def refine(
    network: Network,
    judge: Judge,
    exam: Exam,
    chosen: Sequence[Candidate],
    rows: np.ndarray,
    steps: int,
    *,
    seed: int = 0,
    tell: Callable[[str, float], None] | None = None,
) -> Refined:
    """Move cores and biases so that hidden states and outputs come close to the dense network's.

    Args:
        network: the dense network.
        judge: compares outputs.
        exam: held-out examples; the state that does best on them is kept.
        chosen: where to start, one for each compressed weight.
        rows: examples to learn from.
        steps: gradient steps.
        seed: of the order of examples.
        tell: called with (what, fraction done).
    """
    units = [unit for unit in network.units if any(one.found.plan.name in unit.weights for one in chosen)]
    modules = {unit.name: replaced(network, unit, _of(chosen, unit)) for unit in units}
    moving = _free(network, units, modules, chosen)
    sizes = [STEP_SIZE * max(LEAST_SIZE, float(one.detach().square().mean().sqrt())) for one in moving]
    optimizer = torch.optim.Adam([{"params": [one]} for one in moving], betas=(0.9, 0.99))
    before = best = exam.score(modules)
    kept = [parameter.detach().clone() for parameter in moving]
    taught = lessons(network, judge, units, rows, seed)
    for step in range(steps):
        for group, size in zip(optimizer.param_groups, sizes, strict=True):
            group["lr"] = size * 0.5 * (1 + cos(pi * step / steps))
        if not _step(network, judge, units, modules, next(taught), optimizer):
            sizes = [size / 2 for size in sizes]  # the last steps were too long: go back
            _copy(kept, moving)
        if (step + 1) % max(1, steps // LOOKS) == 0 or step + 1 == steps:
            score = exam.score(modules)
            if tell:
                tell(f"refine: difference {score:.4f}", (step + 1) / steps)
            if score < best:
                best, kept = score, [parameter.detach().clone() for parameter in moving]
            elif score > before:
                sizes = [size / 4 for size in sizes]  # worse than the start: what was good asks for smaller steps
                _copy(kept, moving)
                optimizer.state.clear()
    _copy(kept, moving)
    return Refined(tuple(_read_back(network, modules, one) for one in chosen), before, best, steps)


def _step(
    network: Network,
    judge: Judge,
    units: Sequence[Unit],
    modules: Mapping[str, nn.Module],
    lesson: Lesson,
    optimizer: torch.optim.Optimizer,
) -> bool:
    """Take one step; False where the loss is not finite any more."""
    run = network.run(lesson.batch, modules)
    hidden = [
        relative_difference(flat_rows(run.outputs[unit.name]), dense)
        for unit, dense in zip(units, lesson.hidden, strict=True)
    ]
    loss = judge.difference(run, lesson.values) + HIDDEN * torch.stack(hidden).mean()
    if not bool(torch.isfinite(loss)):
        return False
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return True


@torch.no_grad()
def _copy(values: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _of(chosen: Sequence[Candidate], unit: Unit) -> list[Candidate]:
    return [one for one in chosen if one.found.plan.name in unit.weights]


def _free(
    network: Network, units: Sequence[Unit], modules: Mapping[str, nn.Module], chosen: Sequence[Candidate]
) -> list[nn.Parameter]:
    """The cores and the biases beside them, set free to move."""
    moving: list[nn.Parameter] = []
    for unit in units:
        for one in _of(chosen, unit):
            weight, bias = _parts(network, unit, modules[unit.name], one)
            moving += [*weight.core, *([bias] if bias is not None else [])]
    for parameter in moving:
        parameter.data = parameter.detach().clone()
        parameter.requires_grad_(True)
    return moving


def _parts(
    network: Network, unit: Unit, module: nn.Module, one: Candidate
) -> tuple[CoreWeight, nn.Parameter | None]:
    suffix = "_reverse" if unit.weights.index(one.found.plan.name) else ""
    free = network.free_bias(one.found.plan.name) is not None
    return getattr(module, f"weight_ih_l0{suffix}"), getattr(module, f"bias_ih_l0{suffix}") if free else None


def _read_back(network: Network, modules: Mapping[str, nn.Module], one: Candidate) -> Candidate:
    unit = network.unit(one.found.plan.name)
    weight, bias = _parts(network, unit, modules[unit.name], one)
    found = replace(one.found, cores=tuple(core.detach().clone() for core in weight.core))
    return replace(one, found=found, bias=None if bias is None else bias.detach().double())
