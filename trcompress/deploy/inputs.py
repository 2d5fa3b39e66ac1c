"""Inputs of any number of steps and sequences for a network that is exported, and which dimensions follow them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.data.factory import call_factory
from trcompress.deploy.parity import Inputs, flat
from trcompress.deploy.sequence import SequenceNetwork
from trcompress.errors import UsageError
from trcompress.util.user_code import faults_told

Maker = Callable[[int, int], Inputs]
"""Makes inputs of (steps, batch)."""

TRIED = ((16, 2), (7, 3))
"""Steps and sequences that a network must take before its inputs are believed."""
MOST_WIDTHS = 4
"""Of a network's first layers, each tried as the width of its input."""


def sequence_inputs(network: SequenceNetwork) -> Maker:
    """Make inputs of a file's own network: vectors or tokens, and lengths."""
    table, first = network.embedding, network.stacks[0]
    width: Any = getattr(first, "rnn", first).input_size
    return _drawn(None if table is None else table.num_embeddings, width, lengths=True)


def guessed_inputs(module: nn.Module) -> Maker:
    """Find inputs that a user's module takes.

    Tried are tokens of its embedding, then vectors as wide as its first layers: (B, T, I), (T, B, I) where a layer
    is not batch-first and, for a convolution, (B, I, T). Of those that it takes the first is chosen in which
    sequences have nothing to do with each other.

    Raises:
        UsageError: none fits.
    """
    named = input_names(module, 2)[1:]
    lengths = bool(named) and "length" in named[0]
    fitting = [make for make in _guesses(module, lengths) if _takes(module, make)]
    if not fitting:
        raise UsageError(
            f"no input could be made up for {type(module).__name__}: give `example`, inputs that it takes, batch "
            "first"
        )
    return next((make for make in fitting if _keeps_sequences_apart(module, make)), fitting[0])


def _guesses(module: nn.Module, lengths: bool) -> Iterator[Maker]:
    every = list(module.modules())
    layouts = ["BTI", "TBI"] if any(getattr(one, "batch_first", True) is False for one in every) else ["BTI"]
    tokens = [one.num_embeddings for one in every if isinstance(one, nn.Embedding)]
    sizes = [getattr(one, "input_size", None) for one in every]
    widths = [one for one in sizes if isinstance(one, int)][:1]
    widths += [one.in_features for one in every if isinstance(one, nn.Linear)]
    channels = [one.in_channels for one in every if isinstance(one, nn.Conv1d)][:1]
    for layout in layouts:
        yield from (_drawn(one, 0, lengths, layout) for one in tokens)
        for width in dict.fromkeys([*widths[:MOST_WIDTHS], *channels]):
            yield _drawn(None, width, lengths, layout)
    yield from (_drawn(None, width, lengths, "BIT") for width in channels)


def _drawn(tokens: int | None, width: int, lengths: bool, layout: str = "BTI") -> Maker:
    def make(steps: int, batch: int) -> Inputs:
        noise = torch.Generator().manual_seed(steps * 1000 + batch)
        if tokens is not None:
            x = torch.randint(tokens, (batch, steps), generator=noise)
        else:
            x = torch.randn(batch, steps, width, generator=noise)
        places = ["BTI".index(axis) for axis in layout[: x.dim()]]
        x = x.permute(places).contiguous()
        if not lengths:
            return (x,)
        valid = torch.randint(1, steps + 1, (batch,), generator=noise)
        valid[0] = steps
        return x, valid

    return make


def _keeps_sequences_apart(module: nn.Module, make: Maker) -> bool:
    """Whether a network gives the same for the first sequences of a batch when the last one is left out."""
    steps, batch = TRIED[-1]
    whole, axes = make(steps, batch), open_dimensions(make, steps, batch)
    places = [next((axis for axis, name in one.items() if name == "batch"), None) for one in axes]
    fewer = [one if at is None else one.narrow(at, 0, batch - 1) for one, at in zip(whole, places, strict=True)]
    with torch.no_grad():
        pairs = list(zip(flat(module(*whole)), flat(module(*fewer)), strict=True))
    for all_of_them, some in pairs:
        if all_of_them.dim() != some.dim():
            return False
        for axis, size in enumerate(some.shape):
            all_of_them = all_of_them.narrow(axis, 0, min(size, all_of_them.shape[axis]))
        if all_of_them.shape != some.shape or not torch.allclose(all_of_them, some, atol=1e-4, rtol=1e-4):
            return False
    return True


def example_inputs(module: nn.Module, example: Any) -> Maker:
    """Make inputs of any size from the user's own: rows and steps taken again and again, lengths in proportion.

    Steps are the first dimension after the batch in which the network takes other sizes; where there is none, they
    stay those of the example.

    Args:
        module: the network.
        example: a tensor or a sequence of tensors, batch first; or `package.module:function` that gives them, which
            runs the user's code.

    Raises:
        UsageError: it holds no tensors, or the network does not take them.
    """
    if isinstance(example, str):
        example = call_factory(example, {}, "an example")
    inputs = (example,) if isinstance(example, Tensor) else tuple(example) if _is_sequence(example) else ()
    if not inputs or not all(isinstance(one, Tensor) and one.dim() for one in inputs):
        raise UsageError(f"`example` must be tensors, batch first: got {example!r:.80}")
    names = input_names(module, len(inputs))
    for axis, states_at in product(range(1, max(one.dim() for one in inputs)), (0, 1)):
        if _takes(module, make := _resized(inputs, names, axis, states_at)):
            return make
    with faults_told("the network, called with `example`"), torch.no_grad():
        module(*inputs)
    return _resized(inputs, names, None)


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _resized(example: Inputs, names: Sequence[str], axis: int | None, states_at: int = 0) -> Maker:
    """Make inputs of an example's kind.

    Args:
        example: the inputs.
        names: of them.
        axis: of the steps; None: there are as many as in the example.
        states_at: where an input but the first has its sequences if it could be both: (B, ...) or (L, B, ...).
    """
    first = example[0]
    known = first.shape[axis] if axis is not None and axis < first.dim() else 0
    places = [0, *(_batch_axis(one, len(first), states_at) for one in example[1:])]

    def make(steps: int, batch: int) -> Inputs:
        found = []
        for name, one, place in zip(names, example, places, strict=True):
            rows = one if place is None else one.index_select(place, torch.arange(batch) % one.shape[place])
            if known and axis is not None and axis < one.dim() and one.shape[axis] == known and axis != place:
                rows = rows.index_select(axis, torch.arange(steps) % known)
            elif known and _are_lengths(name, one, known):
                rows = _lengths(rows, steps, known)
            found.append(rows)
        return tuple(found)

    return make


def _batch_axis(value: Tensor, batch: int, states_at: int) -> int | None:
    fitting = [axis for axis, size in enumerate(value.shape[:2]) if size == batch]
    return states_at if states_at in fitting else next(iter(fitting), None)


def _are_lengths(name: str, value: Tensor, steps: int) -> bool:
    whole = value.dim() == 1 and not value.is_floating_point()
    return whole and ("len" in name or int(value.max()) == steps)


def _lengths(rows: Tensor, steps: int, example_steps: int) -> Tensor:
    """Scale lengths to other steps; one fills them all, as the padding of a batch is that of its longest."""
    found = (rows * steps + example_steps - 1).div(example_steps, rounding_mode="floor").clamp(1, steps)
    found[found.argmax()] = steps
    return found


def _takes(module: nn.Module, make: Maker) -> bool:
    try:
        with torch.no_grad():
            for steps, batch in TRIED:
                module(*make(steps, batch))
    except Exception:  # a guess that does not fit; the next one may
        return False
    return True


def input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Name a network's inputs as its forward does.

    Example:
        >>> input_names(nn.Sequential(nn.Linear(2, 2)), 2)
        ('input', 'input_1')
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [name for name, one in inspect.signature(module.forward).parameters.items() if one.kind in positional]
    return tuple(taken[k] if k < len(taken) else f"input_{k}" for k in range(count))


def output_names(value: Any, name: str = "output") -> list[str]:
    """Name each tensor of what a network gives, in order: by its place, and in a dict by its key.

    Example:
        >>> output_names((torch.zeros(1), {"scores": torch.zeros(1)}))
        ['output_0', 'scores']
    """
    if isinstance(value, Tensor):
        return [name]
    pairs: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list | tuple):
        pairs = [(f"{name}_{k}", one) for k, one in enumerate(value)]
    return [found for key, one in pairs for found in output_names(one, str(key))]


def open_dimensions(make: Maker, steps: int, batch: int) -> list[dict[int, str]]:
    """Tell which dimensions of each input are "batch" and "time", by making inputs of other sizes.

    Example:
        >>> open_dimensions(lambda steps, batch: (torch.zeros(batch, steps, 3), torch.zeros(batch)), 5, 2)
        [{0: 'batch', 1: 'time'}, {0: 'batch'}]
    """
    here, longer, more = make(steps, batch), make(steps + 1, batch), make(steps, batch + 1)
    return [
        {axis: name for name, other in ways for axis in range(one.dim()) if one.shape[axis] != other.shape[axis]}
        for one, *ways in ((a, ("batch", c), ("time", b)) for a, b, c in zip(here, longer, more, strict=True))
    ]
