"""How much a network's outputs would change without each hidden unit: E[(h dL/dh)^2], to first order.

h dL/dh, summed over the steps, is the sum over all weights that read the unit of weight times gradient; so ordinary
gradients of ordinary weights suffice, with PyTorch's own kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.network.batches import Forward, evaluating, tensors_of
from trcompress.passes.opening import opened

Saliency = Mapping[str, Tensor]
"""(H,) importance of every unit, by the ending of its parameters' names."""

PROBES = 4
"""Draws of random signs per batch."""


def saliency(
    model: nn.Module,
    name: str,
    readers: Sequence[str],
    batches: Sequence[Any],
    forward: Forward,
    *,
    seed: int = 0,
) -> Saliency:
    """Rank the hidden units of one recurrent module, without labels.

    Args:
        model: any module, unchanged.
        name: of the recurrent module.
        readers: names of the modules that read its outputs.
        batches: inputs.
        forward: `forward(model, batch)`; its outputs must be differentiable, else the units' energy counts.
        seed: of the random signs.
    """
    with opened(model, name) as network:
        return _saliency(network, name, readers, batches, forward, seed)


def _saliency(
    model: nn.Module, name: str, readers: Sequence[str], batches: Sequence[Any], forward: Forward, seed: int
) -> Saliency:
    module: Any = model.get_submodule(name)
    reading = _reading(model, module, readers)
    weights = [weight for parts in reading.values() for weight, _ in parts]
    found = {ending: torch.zeros(module.hidden_size, dtype=torch.float64) for ending in reading}
    draw = torch.Generator().manual_seed(seed)
    with evaluating(model), _only(model, weights), torch.enable_grad():
        for batch in batches:
            answer = [one for one in tensors_of(forward(model, batch)) if one.requires_grad]
            for probe in range(PROBES if answer else 0):
                loss = sum((_signs(one, draw) * one).sum() / one.detach().norm().clamp_min(1e-30) for one in answer)
                slopes = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=probe < PROBES - 1)
                _add(found, reading, dict(zip(map(id, weights), slopes, strict=True)))
    if not any(bool(one.any()) for one in found.values()):
        return {ending: _energy(parts, module.hidden_size) for ending, parts in reading.items()}
    return found


Reading = dict[str, list[tuple[nn.Parameter, slice]]]


def _reading(model: nn.Module, module: Any, readers: Sequence[str]) -> Reading:
    """For every layer and direction, the weights that read its units and which of their columns do."""
    ends = ("", "_reverse") if module.bidirectional else ("",)
    size, found = module.hidden_size, {}
    for layer in range(module.num_layers):
        above = [getattr(module, f"weight_ih_l{layer + 1}{end}", None) for end in ends]
        if layer == module.num_layers - 1:
            above = [weight for one in readers for weight in _input_weights(model.get_submodule(one))]
        for number, end in enumerate(ends):
            own = getattr(module, f"weight_hr_l{layer}{end}" if module.proj_size else f"weight_hh_l{layer}{end}")
            parts = [(own, slice(0, size))]
            if not module.proj_size:
                columns = slice(number * size, (number + 1) * size)
                parts += [(weight, columns) for weight in above if isinstance(weight, nn.Parameter)]
            found[f"_l{layer}{end}"] = parts
    return found


def _input_weights(module: Any) -> list[Any]:
    if isinstance(module, nn.Linear):
        return [module.weight]
    return [getattr(module, f"weight_ih_l0{end}", None) for end in ("", "_reverse")]


def _add(found: dict[str, Tensor], reading: Reading, slopes: Mapping[int, Tensor | None]) -> None:
    for ending, parts in reading.items():
        change = torch.zeros_like(found[ending])
        for weight, columns in parts:
            slope = slopes[id(weight)]
            if slope is not None:
                change += (weight.detach() * slope)[:, columns].sum(0).double().cpu()
        found[ending] += change.square()


def _energy(parts: list[tuple[nn.Parameter, slice]], size: int) -> Tensor:
    total = torch.zeros(size, dtype=torch.float64)
    for weight, columns in parts:
        total += weight.detach()[:, columns].double().square().sum(0).cpu()
    return total


def _signs(like: Tensor, draw: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=draw) * 2 - 1).to(like)


@contextmanager
def _only(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients flow to these parameters alone while the context is open."""
    before = [(one, one.requires_grad) for one in model.parameters()]
    wanted = {id(one) for one in weights}
    for one, _ in before:
        one.requires_grad_(id(one) in wanted)
    try:
        yield
    finally:
        for one, flag in before:
            one.requires_grad_(flag)
