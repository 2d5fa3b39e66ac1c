"""Which gradients a user's network is asked for, and what they may keep in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Ask no gradient of any parameter while the context lasts; what runs before the layers keeps no values."""
    asked = [one for one in model.parameters() if one.requires_grad]
    try:
        for one in asked:
            one.requires_grad_(False)
        yield
    finally:
        for one in asked:
            one.requires_grad_(True)


@contextmanager
def operations_only(model: nn.Module) -> Iterator[None]:
    """Record which operations lead to a result, and no value of them: nothing can be differentiated.

    Parameters that ask for no gradient are followed as well: a frozen network ends in a softmax as others do.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Softmax(-1)).requires_grad_(False)
        >>> with operations_only(model):
        ...     result = model(torch.ones(1, 3))
        >>> type(result.grad_fn).__name__, any(one.requires_grad for one in model.parameters())
        ('SoftmaxBackward0', False)
    """
    still = [one for one in model.parameters() if not one.requires_grad and _may_ask(one)]
    try:
        for one in still:
            one.requires_grad_(True)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda _: None, _refuse):
            yield
    finally:
        for one in still:
            one.requires_grad_(False)


def _may_ask(parameter: Tensor) -> bool:
    return (parameter.is_floating_point() or parameter.is_complex()) and not parameter.is_inference()


def _refuse(_: object) -> Tensor:
    raise RuntimeError("this graph was recorded without values: it cannot be differentiated")
