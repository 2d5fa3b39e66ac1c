"""How a batch of a user's own data reaches a user's own network: the rule where `forward` is not given.

    tensor, array, packed sequence    model(x), an array as a tensor
    (x, labels), (x, mask, labels)    model(x), model(x, mask): the last part is taken for labels
    ((x, mask), labels)           model(x, mask)
    {"x": x, "labels": y}         model(x=x): keys that forward names; labels only where forward requires them

As many parts are passed as forward can take, the last one only where forward requires that many.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from trcompress.data.user_batches import LABELS
from trcompress.errors import InputFileError, TrcompressError
from trcompress.network.gradients import operations_only

Forward = Callable[[nn.Module, Any], Any]
"""Runs a network on a batch and returns what it gives."""


def default_forward(model: nn.Module, batch: Any) -> Any:
    """Run a network on a batch, on the network's device; see the rule above.

    Example:
        >>> x, labels = torch.randn(2, 5), torch.tensor([0, 1])
        >>> default_forward(nn.Linear(5, 3), (x, labels)).shape
        torch.Size([2, 3])
    """
    arguments, named = arguments_of(model, to_device(batch, device_of(model)))
    return model(*arguments, **named)


def arguments_of(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Choose what of a batch is passed, without looking at any value."""
    taken = _parameters(model)
    if isinstance(batch, Mapping):
        return _named(batch, taken)
    if _is_single(batch):
        return (batch,), {}
    if len(batch) == 2 and isinstance(batch[0], Mapping):
        return _named(batch[0], taken)
    if len(batch) == 2 and not _is_single(batch[0]):
        return _limited((*batch[0], None), taken), {}
    return _limited(tuple(batch), taken), {}


def _is_single(value: Any) -> bool:
    return isinstance(value, (Tensor, PackedSequence)) or not isinstance(value, (tuple, list))


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return [inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)]


def _limited(parts: tuple[Any, ...], taken: list[inspect.Parameter]) -> tuple[Any, ...]:
    positional = [one for one in taken if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    required = sum(one.default is one.empty for one in positional)
    if len(parts) == 1 or required >= len(parts):
        return parts
    open_ended = any(one.kind is one.VAR_POSITIONAL for one in taken)
    return parts[:-1] if open_ended else parts[: min(len(parts) - 1, len(positional))]


def _named(batch: Mapping[Any, Any], taken: list[inspect.Parameter]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    required = {one.name for one in taken if one.default is one.empty}
    names = {one.name for one in taken}
    if any(one.kind is one.VAR_KEYWORD for one in taken):
        names |= set(batch)
    named = {key: value for key, value in batch.items() if key in names and (key not in LABELS or key in required)}
    return ((), named) if named else ((batch,), {})


def device_of(model: nn.Module) -> torch.device:
    """Return where a network lies: the device of its first parameter or buffer."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a batch, whatever holds it; arrays become tensors."""
    if isinstance(batch, Tensor):
        return batch.to(device, copy=batch.is_inference())  # no gradient passes what inference_mode made
    if isinstance(batch, np.ndarray):
        return torch.as_tensor(batch, device=device)
    if isinstance(batch, PackedSequence):
        return batch.to(str(device))  # type: ignore[arg-type]
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(one, device) for one in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(one, device) for one in batch)
    return batch


def tensors_of(value: Any) -> list[Tensor]:
    """Return every tensor in a batch or a result, in order."""
    leaves = []
    for one in tree_leaves(value, is_leaf=lambda part: isinstance(part, PackedSequence)):
        if isinstance(one, Tensor):
            leaves.append(one)
        elif isinstance(one, PackedSequence):
            leaves.append(one.data)
        elif hasattr(one, "__dict__") and not isinstance(one, nn.Module):
            leaves += [part for part in vars(one).values() if isinstance(part, Tensor)]
    return leaves


def bytes_of(value: Any) -> int:
    """Bytes of all tensors and arrays in a batch."""
    arrays = (one for one in tree_leaves(value) if isinstance(one, np.ndarray))
    return sum(one.nbytes for one in tensors_of(value)) + sum(one.nbytes for one in arrays)


@contextmanager
def evaluating(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Put a network into eval mode, with random numbers that depend on the seed alone, and back again."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [device_of(model)] if device_of(model).type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices), _eager():
            torch.manual_seed(seed)
            yield
    finally:
        for module, training in modes:
            module.training = training


def _eager() -> AbstractContextManager[Any]:
    """Leave out what torch.compile made, where it was used at all: importing it takes seconds."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def run_first(model: nn.Module, forward: Forward, batch: Any) -> Any:
    """Run the first batch, with a graph that tells which operations gave the result and keeps none of their values.

    Raises:
        InputFileError: the network cannot be called with this batch by the default rule.
    """
    with operations_only(model):
        return _run_told(model, forward, batch)


def _run_told(model: nn.Module, forward: Forward, batch: Any) -> Any:
    if forward is not default_forward:
        return forward(model, batch)
    with batch_fits(model, batch, "; give forward=lambda model, batch: ... where the batch has another form"):
        return forward(model, batch)


@contextmanager
def batch_fits(model: nn.Module, batch: Any, advice: str) -> Iterator[None]:
    """Tell what a network was called with where it cannot be called so.

    Raises:
        InputFileError: the network raised something that a batch of another form would not make it raise.
    """
    try:
        yield
    except (TypeError, RuntimeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, TrcompressError | torch.OutOfMemoryError):
            raise
        raise InputFileError(
            f"the calibration data must be what the network takes: {type(model).__name__} was called with "
            f"{_described(model, batch)}: {type(error).__name__}: {_first_line(error)}{advice}"
        ) from error


def _described(model: nn.Module, batch: Any) -> str:
    arguments, named = arguments_of(model, batch)
    parts = [_size(one) for one in arguments] + [f"{key}={_size(value)}" for key, value in named.items()]
    return f"({', '.join(parts)})"


def _size(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
