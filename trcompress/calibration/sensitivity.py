"""Gate sensitivity: how strongly what the network gives answers to each gate's pre-activation.

A unit is run with the identity as its input weight and W x as its input, so that the gradient with respect to
that input is the one with respect to the pre-activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trcompress.calibration.network import Batch, Network, Run, Unit
from trcompress.calibration.sequences import Sequences, on_rows
from trcompress.model.kinds import KINDS

Probe = Callable[[Run], Tensor]
"""A random scalar function of what the network gives; its mean squared gradient is the sensitivity."""


def gate_sensitivity(network: Network, unit: Unit, batches: Sequence[Batch], probe: Probe) -> dict[str, Tensor]:
    """Second moments of the gradient with respect to the pre-activations of a unit.

    Args:
        network: the dense network.
        unit: whose pre-activations.
        batches: examples.
        probe: draws a scalar.

    Returns:
        For each weight of the unit, E[g g'] (G*H, G*H) float64.
    """
    module = _identity_fed(network, unit)
    weights = [network.tensors[key] for key in unit.weights]
    size = len(weights[0])
    moments = [torch.zeros(size, size, dtype=torch.float64) for _ in weights]
    for batch in batches:
        with torch.no_grad():
            inputs = unit_input(network, unit, batch)
            gates = on_rows(inputs, lambda rows: rows @ torch.cat(weights).t())
        leaf = (gates.data if isinstance(gates, PackedSequence) else gates).requires_grad_()
        drawn = probe(network.run(batch, {unit.name: module}, {unit.name: gates}))
        gradient = torch.autograd.grad(drawn, leaf)[0].reshape(-1, size * len(weights))
        for moment, part in zip(moments, gradient.double().split(size, dim=1), strict=True):
            moment.addmm_(part.t(), part)
    return dict(zip(unit.weights, moments, strict=True))


def unit_input(network: Network, unit: Unit, batch: Batch) -> Sequences:
    """What the dense network really feeds a unit."""
    if unit.below is None:
        return network.vectors(unit, batch)
    return network.run(batch, {}).outputs[unit.below]


def _identity_fed(network: Network, unit: Unit) -> nn.Module:
    """The unit as a layer that takes the pre-activations of all its directions, side by side."""
    size = KINDS[unit.layers[0].kind].gates * unit.layers[0].hidden_size
    wide = tuple(replace(layer, input_size=size * len(unit.layers)) for layer in unit.layers)
    picks = torch.eye(size * len(unit.layers)).split(size)
    tensors = network.tensors | dict(zip(unit.weights, picks, strict=True))
    return Unit(unit.name, unit.stack, wide, unit.below, unit.depth).build(tensors).requires_grad_(False)
