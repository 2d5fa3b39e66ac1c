"""Run torch.nn's recurrent modules layer by layer inside their own network, with other input weights where asked.

    gates = features(x) @ weight.T + bias        in place of        x @ weight_ih.T + bias_ih

Only the modules' `forward` is exchanged, for as long as a context lasts: packed and padded sequences, initial
states, cells in Python loops and modules that are called several times pass through as they do in torch.nn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

from trcompress.layers.convert import dense_kind, own_methods
from trcompress.network.calls import Calls
from trcompress.network.recompute import in_pieces

Sequences = Tensor | PackedSequence
"""What a recurrent module takes and gives."""


@dataclass(frozen=True)
class Substitute:
    """What takes the place of one weight_ih, and of the bias beside it.

    Args:
        weight: (G*H, K) for features of K values.
        features: maps inputs (..., I) to (..., K); None where the weight takes the inputs themselves.
        bias: (G*H,), or None where the module's own stays.
    """

    weight: Tensor
    features: Callable[[Tensor], Tensor] | None = None
    bias: Tensor | None = None

    @classmethod
    def of_factors(cls, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Substitute:
        """Stand for W = left @ right: left (I, K), right (K, G*H)."""
        return cls(right.t(), lambda x: x @ left, bias)


Tap = Callable[[str, str, Tensor], None]
"""Called with ("inputs" or "states", name of the weight_ih, rows): what a layer is fed, what it gives."""


@dataclass(frozen=True)
class RecurrentLayer:
    """One layer of one module, all its directions.

    Args:
        module: an LSTM, GRU, RNN or a cell of one.
        index: of the layer in the module; 0 in a cell.
        weights: full names of weight_ih, the forward direction first.
        suffixes: what follows `weight_ih` in the module, one a direction.
    """

    module: Any
    index: int
    weights: tuple[str, ...]
    suffixes: tuple[str, ...]

    def parameter(self, role: str, direction: int = 0) -> nn.Parameter | None:
        """The parameter of a role ("weight_hh"), or None where the module has none."""
        return getattr(self.module, f"{role}{self.suffixes[direction]}", None)


def recurrent_layers(model: nn.Module) -> dict[str, list[RecurrentLayer]]:
    """List the layers of every module that computes what torch.nn's do, by its name; ring layers are left out."""
    names = _canonical_names(model)
    found: dict[str, list[RecurrentLayer]] = {}
    for name, module in model.named_modules():
        if dense_kind(module) is None or own_methods(module):
            continue
        found[name] = []
        for index, suffixes in enumerate(_suffixes(module)):
            weights = tuple(names[id(getattr(module, f"weight_ih{suffix}"))] for suffix in suffixes)
            found[name].append(RecurrentLayer(module, index, weights, suffixes))
    return found


def _suffixes(module: Any) -> list[tuple[str, ...]]:
    if not hasattr(module, "num_layers"):
        return [("",)]
    ends = ("", "_reverse")[: 2 if module.bidirectional else 1]
    return [tuple(f"_l{index}{end}" for end in ends) for index in range(module.num_layers)]


def _canonical_names(model: nn.Module) -> dict[int, str]:
    """The first name of every parameter, by its identity."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), name)
    return names


@contextmanager
def layer_by_layer(
    model: nn.Module,
    substitutes: Mapping[str, Substitute] | None = None,
    tap: Tap | None = None,
    calls: Calls | None = None,
    recompute: bool = False,
) -> Iterator[None]:
    """Run a model's recurrent modules layer by layer while the context lasts.

    Dropout between layers is left out: the model is expected in eval mode.

    Args:
        model: any module.
        substitutes: by the full name of the weight_ih they stand for; a weight of several names goes by its first.
        tap: sees what reaches each layer, and what it gives; without one, only modules with substitutes change.
        calls: what layers gave in another run; those without substitutes that are fed the same give it again.
        recompute: keep no layer's inner values for gradients; see `trcompress.network.recompute`.

    Example:
        >>> lstm, x, seen = nn.LSTM(3, 2, num_layers=2), torch.randn(4, 1, 3), []
        >>> with layer_by_layer(lstm, tap=lambda what, name, rows: seen.append((what, name, tuple(rows.shape)))):
        ...     _ = lstm(x)
        >>> seen[2]
        ('inputs', 'weight_ih_l1', (4, 2))
    """
    given = substitutes or {}
    with ExitStack() as stack:
        for layers in recurrent_layers(model).values():
            if tap or calls or any(weight in given for layer in layers for weight in layer.weights):
                run = _run_stack if hasattr(layers[0].module, "num_layers") else _run_cell
                answer = partial(_answer, substitutes=given, calls=calls, recompute=recompute)
                stack.enter_context(_forward_of(layers[0].module, partial(run, layers, answer, tap)))
        yield


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    object.__setattr__(module, "forward", forward)
    try:
        yield
    finally:
        object.__delattr__(module, "forward")
        if own is not None:
            object.__setattr__(module, "forward", own)


def _run_stack(
    layers: list[RecurrentLayer],
    answer: Callable[..., Any],
    tap: Tap | None,
    input: Sequences,
    hx: Any = None,
) -> tuple[Sequences, Any]:
    """As the forward of nn.LSTM, nn.GRU and nn.RNN."""
    directions, sequences, last = len(layers[0].weights), input, []
    for layer in layers:
        part = slice(layer.index * directions, (layer.index + 1) * directions)
        start = None if hx is None else tuple(h[part] for h in hx) if isinstance(hx, tuple) else hx[part]
        if tap:
            for weight in layer.weights:
                tap("inputs", weight, _rows(sequences))
        sequences, state = answer(layer, sequences, start)
        last.append(state)
        if tap:
            for weight, rows in zip(layer.weights, _rows(sequences).chunk(directions, dim=-1), strict=True):
                tap("states", weight, rows)
    if isinstance(last[0], tuple):
        return sequences, tuple(torch.cat(states) for states in zip(*last, strict=True))
    return sequences, torch.cat(last)


def _run_cell(
    layers: list[RecurrentLayer],
    answer: Callable[..., Any],
    tap: Tap | None,
    input: Tensor,
    hx: Any = None,
) -> Any:
    """As the forward of nn.LSTMCell, nn.GRUCell and nn.RNNCell."""
    (layer,) = layers
    if tap:
        tap("inputs", layer.weights[0], _rows(input))
    state = answer(layer, input, hx)
    if tap:
        tap("states", layer.weights[0], _rows(state[0] if isinstance(state, tuple) else state))
    return state


def _answer(
    layer: RecurrentLayer,
    input: Sequences,
    hx: Any,
    substitutes: Mapping[str, Substitute],
    calls: Calls | None,
    recompute: bool,
) -> Any:
    """What one layer gives, known or computed."""
    run = partial(_run_layer, layer, substitutes, input, hx)
    if recompute and torch.is_grad_enabled():
        axis = 0 if getattr(layer.module, "batch_first", False) else 1
        return in_pieces(partial(_run_layer, layer, substitutes), input, hx, axis)
    if calls is None or any(weight in substitutes for weight in layer.weights):
        return run()
    return calls.answer(layer.weights[0], (input, hx), run)


def _run_layer(layer: RecurrentLayer, substitutes: Mapping[str, Substitute], input: Sequences, hx: Any) -> Any:
    """One layer by torch.nn's own kernel, its input weights its own or substitutes."""
    subs = [substitutes.get(weight) for weight in layer.weights]
    weights = [
        sub.weight if sub else getattr(layer.module, f"weight_ih{suffix}")
        for sub, suffix in zip(subs, layer.suffixes, strict=True)
    ]
    if any(sub and sub.features for sub in subs):
        input = _mapped(input, partial(_features, subs))
        weights = _side_by_side(weights)
    own: Any = layer.module
    width = weights[0].shape[1]
    kind: Any = dense_kind(own)
    template = _template(kind, width, own.hidden_size, own.bias, *_settings(own))
    values: dict[str, Any] = {}
    for place, (suffix, weight, sub) in enumerate(zip(_suffixes(template)[0], weights, subs, strict=True)):
        values[f"weight_ih{suffix}"] = weight
        for role in ("weight_hh", "bias_ih", "bias_hh", "weight_hr"):
            if (value := layer.parameter(role, place)) is not None:
                values[f"{role}{suffix}"] = value
        if sub and sub.bias is not None:
            values[f"bias_ih{suffix}"] = sub.bias
    return functional_call(template, values, (input,) if hx is None else (input, hx))


def _features(subs: list[Substitute | None], x: Tensor) -> Tensor:
    found = [sub.features(x) if sub and sub.features else x for sub in subs]
    return found[0] if len(found) == 1 else torch.cat(found, -1)


def _settings(module: nn.Module) -> tuple[Any, ...]:
    names = ("nonlinearity", "batch_first", "bidirectional", "proj_size")
    return tuple(getattr(module, name, None) for name in names)


@lru_cache(maxsize=64)
def _template(
    kind: Any,
    inputs: int,
    hidden: int,
    bias: bool,
    nonlinearity: str | None,
    batch_first: bool | None,
    bidirectional: bool | None,
    proj_size: int | None,
) -> nn.Module:
    """A one-layer module without values of its own."""
    options: dict[str, Any] = {"batch_first": batch_first, "bidirectional": bidirectional}
    options |= {"proj_size": proj_size or None, "nonlinearity": None if kind in (nn.LSTM, nn.GRU) else nonlinearity}
    given = {name: value for name, value in options.items() if value is not None}
    return kind(inputs, hidden, bias=bias, device="meta", **given).eval()


def _side_by_side(weights: list[Tensor]) -> list[Tensor]:
    """Each direction's weight over the features of all: zeros where they are the other's."""
    widths = [weight.shape[1] for weight in weights]
    if len(weights) == 1:
        return weights
    return [
        nn.functional.pad(weight, (sum(widths[:place]), sum(widths[place + 1 :])))
        for place, weight in enumerate(weights)
    ]


def _mapped(sequences: Sequences, function: Callable[[Tensor], Tensor]) -> Sequences:
    if isinstance(sequences, PackedSequence):
        return sequences._replace(data=function(sequences.data))
    return function(sequences)


def _rows(sequences: Sequences) -> Tensor:
    """Every step as one row, the padding of packed sequences left out."""
    data = sequences.data if isinstance(sequences, PackedSequence) else sequences
    return data.reshape(-1, data.shape[-1])
