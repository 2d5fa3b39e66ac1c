"""Which modules read a recurrent layer's states: found by running the network, not by reading its code.

The layer's outputs are poisoned with NaN: what is fed NaN reads them. Then the units are put in reverse order, and
the readers' columns with them: where the network's outputs stay equal, nothing else reads the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trcompress.errors import UsageError
from trcompress.layers import is_plain_stack
from trcompress.layers.stack import RingStack
from trcompress.layers.swaps import swapped
from trcompress.network.batches import Forward, evaluating, tensors_of
from trcompress.passes.compare import distance
from trcompress.passes.guess import affine_guess, has, repair
from trcompress.passes.moments import Moments
from trcompress.passes.opening import opened
from trcompress.passes.shrink import Kept, settle_, shrunken, top_units

EQUAL = 1e-8
"""Relative squared difference of outputs that another order of summation explains."""


def readers_of(model: nn.Module, name: str, batches: Sequence[Any], forward: Forward) -> tuple[str, ...]:
    """Name the modules that read a recurrent layer's outputs and last states.

    Args:
        model: any module, unchanged.
        name: of the recurrent module.
        batches: inputs to try with.
        forward: `forward(model, batch)`.

    Raises:
        UsageError: something other than linear layers and whole recurrent layers reads them.
    """
    with opened(model, name) as network:
        return _readers_of(network, name, batches, forward)


def _readers_of(model: nn.Module, name: str, batches: Sequence[Any], forward: Forward) -> tuple[str, ...]:
    module: Any = model.get_submodule(name)
    width = module.hidden_size * (2 if module.bidirectional else 1)
    able = [one for one, other in model.named_modules() if one != name and _width(other) == width]
    with evaluating(model), torch.no_grad():
        wanted = [forward(model, batch) for batch in batches]
        found = _poisoned(model, name, able, batches[0], forward)
        same = _same_reversed(model, name, module, found, batches, forward, wanted)
        same = same and _runs_with_fewer(model, name, module, found, batches[0], forward)
    if not same:
        raise UsageError(
            f"the states of {name or 'the network'} must be read by linear or recurrent layers alone to be fewer: "
            f"{', '.join(found) or 'none of these'} reads them, and something else; leave its units as they are"
        )
    return tuple(found)


def repaired(old: Any, moments: dict[str, Moments], units: Tensor) -> nn.Module:
    """Let a reader, nn.Linear or a recurrent layer, read these of the values it read before.

    Args:
        old: the reader, unchanged.
        moments: of what its matrices read, by local name; not needed where all values stay.
        units: (k,) indices.
    """
    new: Any = deepcopy(old)
    ends = ("_l0", "_l0_reverse") if getattr(old, "bidirectional", False) else ("_l0",)
    pairs = [("weight", "bias")] if isinstance(old, nn.Linear) else [(f"weight_ih{e}", f"bias_ih{e}") for e in ends]
    for weight, bias in pairs:
        repair(new, weight, bias, affine_guess(moments.get(weight), units, has(old, bias)))
    if isinstance(new, nn.Linear):
        new.in_features = len(units)
    else:
        new.input_size = len(units)
        settle_(new)
    return new


def _width(module: Any) -> int | None:
    if type(module) is nn.Linear:
        return module.in_features
    plain = is_plain_stack(module) or isinstance(module, RingStack)
    return module.input_size if plain and has(module, "weight_ih_l0") else None


def _poisoned(model: nn.Module, name: str, able: Sequence[str], batch: Any, forward: Forward) -> list[str]:
    """Which of the able modules are fed NaN when the layer gives NaN and they themselves give what they gave."""
    clean: dict[str, list[Any]] = {one: [] for one in able}
    with _hooked(model, able, lambda one, args, output: clean[one].append(output)):
        forward(model, batch)
    fed: dict[str, None] = {}
    calls = dict.fromkeys(able, 0)

    def answer(one: str, args: Any, output: Any) -> Any:
        if any(bool(value.isnan().any()) for value in tensors_of(args)):
            fed[one] = None
        calls[one] += 1
        return clean[one][calls[one] - 1]

    spoil = model.get_submodule(name).register_forward_hook(lambda module, args, output: _nans(output))
    try:
        with _hooked(model, able, answer):
            forward(model, batch)
    except (RuntimeError, ValueError, IndexError):
        return []  # the network looks at its states; the trial below will say so
    finally:
        spoil.remove()
    return list(fed)


@contextmanager
def _hooked(model: nn.Module, names: Sequence[str], answer: Any) -> Iterator[None]:
    def hook(one: str) -> Any:
        return lambda module, args, output: answer(one, args, output)

    handles = [model.get_submodule(one).register_forward_hook(hook(one)) for one in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nans(output: Any) -> Any:
    if isinstance(output, Tensor):
        return torch.full_like(output, torch.nan)
    if isinstance(output, PackedSequence):
        return output._replace(data=_nans(output.data))
    return tuple(_nans(one) for one in output)


def _same_reversed(
    model: nn.Module,
    name: str,
    module: Any,
    readers: Sequence[str],
    batches: Sequence[Any],
    forward: Forward,
    wanted: list[Any],
) -> bool:
    kept = reversed_units(module)
    top = top_units(module, kept)
    swaps: dict[str, nn.Module] = {name: shrunken(module, kept, {})}
    swaps |= {one: repaired(model.get_submodule(one), {}, top) for one in readers}
    try:
        with swapped(model, swaps) as changed, evaluating(changed):
            return distance([forward(changed, batch) for batch in batches], wanted) <= EQUAL
    except (RuntimeError, ValueError, IndexError):
        return False


def _runs_with_fewer(
    model: nn.Module, name: str, module: Any, readers: Sequence[str], batch: Any, forward: Forward
) -> bool:
    """Try one unit fewer: a norm of a fixed width whose units are all alike takes them in any order."""
    kept = {ending: order[1:] for ending, order in reversed_units(module).items()}
    if module.hidden_size == 1:
        return True
    width = module.hidden_size * (2 if module.bidirectional else 1)
    own = {f"weight_hh{ending}": _any_values(module.hidden_size) for ending in kept}
    own |= {f"weight_ih{ending}": _any_values(width) for ending in kept}
    read = dict.fromkeys(("weight", "weight_ih_l0", "weight_ih_l0_reverse"), _any_values(width))
    swaps: dict[str, nn.Module] = {name: shrunken(module, kept, own)}
    swaps |= {one: repaired(model.get_submodule(one), read, top_units(module, kept)) for one in readers}
    try:
        with swapped(model, swaps) as changed, evaluating(changed):
            forward(changed, batch)
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def _any_values(size: int) -> Moments:
    """Moments to fit sizes by, where values do not matter."""
    seen = Moments.of_size(size)
    seen.add(torch.eye(size))
    return seen


def reversed_units(module: Any) -> Kept:
    """Return all units of every layer and direction, last first."""
    ends = ("", "_reverse") if module.bidirectional else ("",)
    order = torch.arange(module.hidden_size - 1, -1, -1)
    return {f"_l{layer}{end}": order for layer in range(module.num_layers) for end in ends}
