"""Gate sensitivity: how strongly what the network gives answers to each gate's pre-activation.

    E[g g'],  g = d probe / d (W x)      with a random probe whose squared gradient is the distance's curvature

All layers are measured at once: each runs on W x with the identity as its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.calibration.token_weights import BLOCK_ROWS, TokenSensitivity, token_sensitivity
from trcompress.network.batches import evaluating
from trcompress.network.gradients import frozen
from trcompress.network.layerwise import Substitute, recurrent_layers
from trcompress.network.outputs import Outputs
from trcompress.network.tokens import TokenUse, row_places

Run = Callable[[Any, Mapping[str, Substitute]], list[Tensor]]

GATE_FLOOR = 1e-3
"""Least sensitivity of a gate, in units of the mean."""
FULL_GATES = 1536
"""Up to so many gate rows their full second moments are kept, above only the diagonal."""


@dataclass(frozen=True)
class Sensitivity:
    """How the outputs answer to one weight's gates.

    Args:
        gates: sum of g g' (O, O), or its diagonal (O,) where there are many gates; float32.
        tokens: the same token by token, where the weight is fed rows of an embedding; else None.
    """

    gates: Tensor
    tokens: TokenSensitivity | None = None

    @cached_property
    def root(self) -> Tensor:
        """(O,) the root of every gate's own sensitivity, of mean square 1."""
        diagonal = (self.gates if self.gates.dim() == 1 else self.gates.diagonal()).double()
        return _even((diagonal + GATE_FLOOR * diagonal.mean()).sqrt())

    @cached_property
    def joint_root(self) -> Tensor | None:
        """(O, O) float32, the symmetric root of the second moments; None where only their diagonal is known."""
        if self.gates.dim() == 1:
            return None
        values, vectors = torch.linalg.eigh(self.gates.double())
        floor = GATE_FLOOR * self.gates.diagonal().double().mean()
        return _even((vectors * (values.clamp_min(0) + floor).sqrt()) @ vectors.t()).float()


def _even(root: Tensor) -> Tensor:
    return root * (len(root) ** 0.5 / root.norm())


def gate_sensitivity(
    model: nn.Module,
    run: Run,
    outputs: Outputs,
    batches: Sequence[Any],
    seed: int = 0,
    tokens: Mapping[str, TokenUse] | None = None,
) -> dict[str, Sensitivity]:
    """Measure all weights on some batches.

    Args:
        model: the network.
        run: runs a batch with substitutes for weights, and returns the rows that are compared.
        outputs: how they are compared.
        batches: what it is run on.
        seed: of the probes.
        tokens: embeddings whose rows a layer is fed as they are, by the weight's name.

    Returns:
        By the weight's name in the module; weights that no gradient reaches are left out, and all of them where the
        network cannot be differentiated.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, _Sums] = {}
    with evaluating(model, seed), frozen(model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for batch in batches:
            fed: list[Tensor] = []
            probe = sum(
                outputs.probe(one, generator) for one in run(batch, _shifts(model, sums, tokens or {}, fed))
            )
            if not isinstance(probe, Tensor) or not probe.requires_grad:
                return {}
            try:
                torch.autograd.grad(probe, fed, allow_unused=True)
            except RuntimeError as error:  # values that gradients need were changed in place
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                return {}
            finally:
                fed.clear()  # the hooks hold it, and it holds the graph that holds the hooks
    return {weight: one.sensitivity() for weight, one in sums.items() if one.energy > 0}


def _shifts(
    model: nn.Module, sums: dict[str, _Sums], tokens: Mapping[str, TokenUse], fed: list[Tensor]
) -> dict[str, Substitute]:
    """Substitutes that run every layer on W x itself, and sum up the gradients that reach W x.

    Gradients are summed up as they come: where layers are recomputed one by one, none of them is kept.

    Args:
        model: the network.
        sums: where gradients go, by weight.
        tokens: see `gate_sensitivity`.
        fed: gathers x, the tensors to differentiate by.
    """

    def add(weight: str, inputs: Tensor, gradient: Tensor | None) -> None:
        if gradient is None:  # an operation behind the layer has none, as quantized ones
            return
        if weight not in sums:
            sums[weight] = _Sums(gradient.shape[-1], tokens.get(weight))
        sums[weight].add(inputs, gradient)

    def gates(weight: str, own: Tensor, x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_()
        shifted = x @ own.t()
        if shifted.requires_grad:  # not where the network calls the layer without gradients
            fed.append(x)
            shifted.register_hook(partial(add, weight, x.detach()))
        return shifted

    found = {}
    for layers in recurrent_layers(model).values():
        for layer in layers:
            for weight, suffix in zip(layer.weights, layer.suffixes, strict=True):
                own = getattr(layer.module, f"weight_ih{suffix}").detach()
                eye = torch.eye(len(own), device=own.device, dtype=own.dtype)
                found[weight] = Substitute(eye, partial(gates, weight, own))
    return found


class _Sums:
    """Second moments of gradients; the gradients themselves where tokens are told apart."""

    def __init__(self, outputs: int, use: TokenUse | None) -> None:
        full = outputs <= FULL_GATES
        self._gates = torch.zeros((outputs, outputs) if full else (outputs,), dtype=torch.float64)
        # with more tokens than inputs, factors of the table's rows are not factors of the weight
        self._use = use if full and use is not None and len(use.table) <= use.table.shape[1] else None
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.energy = 0.0

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Take in inputs (..., I) and gradients (..., O)."""
        gradients = gradient.reshape(-1, gradient.shape[-1]).cpu()
        for block in gradients.split(BLOCK_ROWS):  # in float64 a whole batch would take several times itself
            exact = block.double()
            squares = exact.square()
            if self._gates.dim() == 2:
                self._gates.addmm_(exact.t(), exact)
            else:
                self._gates += squares.sum(0)
            self.energy += float(squares.sum())
        if self._use is not None:
            places = row_places(self._use.table, inputs.reshape(-1, inputs.shape[-1]))
            self._kept.append((places.cpu(), gradients.to(torch.float32, copy=True)))

    def sensitivity(self) -> Sensitivity:
        """What was summed up."""
        if self._use is None:
            return Sensitivity(self._gates.float())
        places, gradients = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        return Sensitivity(self._gates.float(), token_sensitivity(self._use.table.cpu(), places, gradients))
