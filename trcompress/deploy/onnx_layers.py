"""Recurrent layers of torch.nn as the arrays of ONNX's LSTM, GRU and RNN operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trcompress.deploy.plain_modules import BottleneckLSTM, BottleneckRNN, StandaloneLSTM, StandaloneRNN
from trcompress.errors import UsageError
from trcompress.layers import recurrent_kind
from trcompress.model.kinds import Kind


@dataclass(frozen=True)
class OnnxLayer:
    """One recurrent layer, all directions.

    Args:
        kind: of the layer; the operator has the name of torch.nn's module.
        hidden_size: H.
        directions: D, 1 or 2.
        entry: (I, K), what the input is multiplied by first; None: nothing.
        weight: (D, G*H, K or I).
        recurrence: (D, G*H, H).
        bias: (D, 2*G*H), input and hidden; None: none.
        nonlinearity: "tanh" or "relu", where the kind has a choice.
    """

    kind: Kind
    hidden_size: int
    directions: int
    entry: np.ndarray | None
    weight: np.ndarray
    recurrence: np.ndarray
    bias: np.ndarray | None
    nonlinearity: str = "tanh"

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the operator."""
        found: dict[str, Any] = {"hidden_size": self.hidden_size}
        if self.directions == 2:
            found["direction"] = "bidirectional"
        if not self.kind.sums_biases:
            found["linear_before_reset"] = 1  # torch.nn's GRU multiplies by r after the hidden matrix
        if self.kind.nonlinearities:
            found["activations"] = [self.nonlinearity.capitalize()] * self.directions
        return found


def onnx_layers(stack: nn.Module) -> list[OnnxLayer]:
    """List the layers of an nn.LSTM, GRU or RNN, or of a chain made by `to_plain`.

    Raises:
        UsageError: a projected LSTM, for which ONNX has no operator, or another module.
    """
    stack = stack.rnn if isinstance(stack, StandaloneLSTM | StandaloneRNN) else stack
    if isinstance(stack, BottleneckLSTM | BottleneckRNN):
        pairs = zip(stack.entries, stack.stages, strict=True)
        return [layer for entry, stage in pairs for layer in _layers(stage, _matrix_of(entry))]
    return _layers(stack, None)


def _matrix_of(entry: Any) -> np.ndarray | None:
    """The matrix of a bottleneck; in eval mode a dropout before it does nothing."""
    linears = [one for one in entry.modules() if isinstance(one, nn.Linear)]
    return _array(linears[0].weight.t()) if linears else None


def _layers(module: Any, entry: np.ndarray | None) -> list[OnnxLayer]:
    if not isinstance(module, nn.RNNBase):
        raise UsageError(
            f"the ONNX graph is built of nn.LSTM, nn.GRU and nn.RNN: got {type(module).__name__}; give the "
            "network's code with `model`, for torch's own exporter"
        )
    refuse_projections(module)
    return [_layer(module, number, entry if number == 0 else None) for number in range(module.num_layers)]


def refuse_projections(network: nn.Module) -> None:
    """Refuse what ONNX has no operator for, before an exporter does so in a hundred lines.

    Raises:
        UsageError: an LSTM in the network has projections.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.LSTM) and module.proj_size:
            raise UsageError(
                f"ONNX has no operator for an LSTM with projections ({f'{name}: ' if name else ''}"
                f"proj_size={module.proj_size}): export a network without them, or ship it with `torch_export`"
            )


def _layer(module: Any, number: int, entry: np.ndarray | None) -> OnnxLayer:
    kind = recurrent_kind(module)
    ends = ("", "_reverse") if module.bidirectional else ("",)

    def stacked(role: str) -> np.ndarray:
        return np.stack([_reordered(getattr(module, f"{role}_l{number}{end}"), kind) for end in ends])

    bias = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1) if module.bias else None
    return OnnxLayer(
        kind,
        module.hidden_size,
        len(ends),
        entry,
        stacked("weight_ih"),
        stacked("weight_hh"),
        bias,
        kind.modes[module.mode],
    )


def _reordered(weight: torch.Tensor, kind: Kind) -> np.ndarray:
    gates = _array(weight).reshape(kind.gates, -1, *weight.shape[1:])  # (G, H, ...)
    return gates[list(kind.onnx_order)].reshape(weight.shape)


def _array(value: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(value.detach().cpu().float().numpy())
