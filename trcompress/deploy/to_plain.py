"""Compressed models as modules of torch.nn alone: what every deployment route takes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trcompress.artifact.quantized import QuantizedTensor, dequantized
from trcompress.deploy.plain_modules import (
    BottleneckCell,
    BottleneckLSTM,
    BottleneckLSTMCell,
    BottleneckRNN,
    StandaloneLSTM,
    StandaloneRNN,
)
from trcompress.layers import RING_OF, CoreWeight, TRLinear, to_dense_module
from trcompress.layers.cells import RingCell
from trcompress.layers.padded_lstm import PaddedForward
from trcompress.layers.stack import RingStack
from trcompress.model.kinds import TWO_STATES


def to_plain(model: nn.Module) -> nn.Module:
    """Copy a compressed model into modules of torch.nn: Linear bottlenecks and stock LSTM, GRU, RNN, cells, Linear.

    A ring x A B is the Linear A' (K, I) without bias and a recurrent layer whose input weight is B'; both
    directions of a layer share one Linear of K_forward + K_reverse outputs. A weight that has fewer values dense
    becomes dense, and so does one in a format without a bottleneck.

    Args:
        model: any network with layers of trcompress in it, or such a layer; it is left as it is.

    Returns:
        A copy that computes the same outputs, states and gradients, in the same mode, type and place, and that
        torch.jit.script, torch.jit.trace, torch.export and torch.onnx take as they take torch.nn's own layers.

    Example:
        >>> from trcompress import TRLSTM
        >>> plain = to_plain(TRLSTM(2048, 64, shape="64x32:16x4", ranks=4))
        >>> [type(one).__name__ for one in plain.rnn.children()], plain.rnn.entries[0].weight.shape
        (['ModuleList', 'ModuleList'], torch.Size([16, 2048]))
    """
    if any(isinstance(one, QuantizedTensor) for one in model.modules()):
        model = dequantized(model)
    plain: dict[int, Any] = {
        id(module): _plain(module)
        for module in model.modules()
        if isinstance(module, RingStack | RingCell | TRLinear)
    }
    if id(model) in plain:
        return _scriptable(plain[id(model)])
    found = copy.deepcopy(model, plain)
    for module in found.modules():
        if isinstance(module.__dict__.get("forward"), PaddedForward):
            del module.forward  # torch.nn's own again
    return found


def _scriptable(module: nn.Module) -> nn.Module:
    """Give a chain that stands alone the one signature that torch.jit.script asks of a root."""
    if isinstance(module, BottleneckLSTM):
        return StandaloneLSTM(module).train(module.training)
    return StandaloneRNN(module).train(module.training) if isinstance(module, BottleneckRNN) else module


@torch.no_grad()
def _plain(module: nn.Module) -> nn.Module:
    if isinstance(module, RingStack):
        return _plain_stack(module).train(module.training)
    if isinstance(module, RingCell):
        return _plain_cell(module).train(module.training)
    return _plain_linear(module).train(module.training)


def _plain_stack(stack: RingStack) -> nn.Module:
    ends = ("", "_reverse") if stack.bidirectional else ("",)
    factors = [
        _factors([getattr(stack, f"weight_ih_l{layer}{end}") for end in ends]) for layer in range(stack.num_layers)
    ]
    if not any(factors):
        return to_dense_module(stack)
    starts = [0, *(layer for layer in range(1, stack.num_layers) if factors[layer])]
    stages, entries = [], []
    for start, stop in zip(starts, [*starts[1:], stack.num_layers], strict=True):
        found = factors[start]
        stages.append(_stage(stack, start, stop, ends, found[1] if found else None))
        entry: nn.Module = _linear(found[0]) if found else nn.Identity()
        entries.append(nn.Sequential(nn.Dropout(stack.dropout), entry) if start and stack.dropout else entry)
    return (BottleneckLSTM if stack.mode in TWO_STATES else BottleneckRNN)(entries, stages, stack)


def _stage(stack: RingStack, start: int, stop: int, ends: Sequence[str], inputs: list[nn.Parameter] | None) -> Any:
    """Build the stock module of layers start..stop-1; `inputs` take the place of the first layer's weight_ih."""
    options: dict[str, Any] = {
        "num_layers": stop - start,
        "bias": stack.bias,
        "batch_first": stack.batch_first,
        "dropout": stack.dropout if stop - start > 1 else 0.0,
        "bidirectional": stack.bidirectional,
    }
    if stack.proj_size:
        options["proj_size"] = stack.proj_size
    fed = len(ends) * (stack.proj_size or stack.hidden_size) if start else stack.input_size
    width = inputs[0].shape[1] if inputs else fed
    stage = _empty(stack, width, **options)
    for name in [name for name, _ in stage.named_parameters()]:
        role, _, place = name.rpartition("_l")
        layer = int(place.removesuffix("_reverse"))
        if role == "weight_ih" and layer == 0 and inputs:
            value = inputs[place.endswith("_reverse")]
        else:
            value = _parameter(getattr(stack, name.replace(f"_l{layer}", f"_l{start + layer}")))
        setattr(stage, name, value)
    return stage


def _plain_cell(cell: RingCell) -> nn.Module:
    found = _factors([cell.weight_ih])
    if found is None:
        return to_dense_module(cell)
    entry, (weight,) = found
    plain = _empty(cell, weight.shape[1], bias=cell.bias)
    for name in [name for name, _ in plain.named_parameters()]:
        setattr(plain, name, weight if name == "weight_ih" else _parameter(getattr(cell, name)))
    kind = BottleneckLSTMCell if cell.mode in TWO_STATES else BottleneckCell
    return kind(_linear(entry), plain)


def _plain_linear(linear: Any) -> nn.Module:
    bias = None if linear.bias is None else _parameter(linear.bias)
    found = _factors([linear.weight])
    if found is None:
        return _linear(_parameter(linear.weight), bias)
    entry, (weight,) = found
    return nn.Sequential(_linear(entry), _linear(weight, bias))


def _factors(weights: Sequence[Any]) -> tuple[nn.Parameter, list[nn.Parameter]] | None:
    """Return A' (K, I) and an input weight (G*H, K) per direction, or None where fewer values are dense."""
    if not all(isinstance(one, CoreWeight) and one.plan.structure.bottleneck for one in weights):
        return None
    pairs = [one.factors(torch.float64) for one in weights]
    A = torch.cat([A for A, _ in pairs], 1)  # (I, K_forward + K_reverse)
    K, rows = A.shape[1], sum(B.shape[1] for _, B in pairs)
    if K * (A.shape[0] + rows) >= A.shape[0] * rows:
        return None
    like, trained = weights[0].cores()[0], any(one.trains for one in weights)
    offsets = [0, pairs[0][0].shape[1]]
    wide = []
    for (_, B), offset in zip(pairs, offsets, strict=False):
        weight = B.new_zeros(B.shape[1], K)
        weight[:, offset : offset + B.shape[0]] = B.T
        wide.append(nn.Parameter(weight.to(like), trained))
    return nn.Parameter(A.T.contiguous().to(like), trained), wide


def _parameter(value: Any) -> nn.Parameter:
    """Copy a weight, expanded where it is kept as cores."""
    if isinstance(value, CoreWeight):
        return nn.Parameter(value.to_dense().contiguous(), value.trains)
    return nn.Parameter(value.detach().clone(), value.requires_grad)


def _linear(weight: nn.Parameter, bias: nn.Parameter | None = None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = weight
    if bias is not None:
        made.bias = bias
    return made


def _empty(layer: Any, input_size: int, **options: Any) -> Any:
    """Build the torch.nn module of the layer's kind, without values."""
    kind: Any = next(dense for dense, ring in RING_OF.items() if isinstance(layer, ring))
    if hasattr(layer, "nonlinearity"):
        options["nonlinearity"] = layer.nonlinearity
    return kind(input_size, layer.hidden_size, device="meta", **options)
