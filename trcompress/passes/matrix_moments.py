"""Record, while a live network runs, the moments of what each of its matrices multiplies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.layers import CoreWeight, is_recurrent
from trcompress.network.batches import Forward, default_forward, evaluating
from trcompress.passes.layer_inputs import LayerInputs, layer_inputs
from trcompress.passes.moments import Moments


@dataclass(frozen=True)
class MatrixMoments:
    """What each matrix of a network multiplies on real inputs.

    Args:
        moments: of the vectors that each matrix multiplies, by the name of its parameter: inputs for weight_ih,
            previous states for weight_hh, states before the projection for weight_hr, inputs of nn.Linear. Of a
            ring also of the K values that its output cores multiply, as `<name>.bottleneck`.
        batches: how many batches were run.
    """

    moments: Mapping[str, Moments]
    batches: int


def bottleneck_of(name: str) -> str:
    """Name the values between the input and the output cores of a ring."""
    return f"{name}.bottleneck"


def matrix_moments(model: nn.Module, batches: Iterable[Any], forward: Forward = default_forward) -> MatrixMoments:
    """Run a network on batches and gather moments, batch by batch.

    Args:
        model: any module; it is run in eval mode, without gradients, and left as it was.
        batches: what `forward` takes.
        forward: `forward(model, batch)`.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2))
        >>> seen = matrix_moments(model, [torch.ones(4, 3)])
        >>> seen.moments["0.weight"].mean.tolist()
        [1.0, 1.0, 1.0]
    """
    seen: dict[str, Moments] = {}
    count = 0
    with hooks(model, seen), evaluating(model), torch.no_grad():
        for batch in batches:
            forward(model, batch)
            count += 1
    return MatrixMoments(seen, count)


@contextmanager
def hooks(model: nn.Module, seen: dict[str, Moments]) -> Iterator[None]:
    """Add to `seen` what every recurrent and linear module is given while the context is open."""
    handles = [
        module.register_forward_hook(_hook(name, module, seen), with_kwargs=True)
        for name, module in model.named_modules()
        if is_recurrent(module) or isinstance(module, nn.Linear)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, module: nn.Module, seen: dict[str, Moments]) -> Callable[..., None]:
    prefix = f"{name}." if name else ""

    def linear(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _add(seen, f"{prefix}weight", args[0] if args else kwargs["input"])

    def recurrent(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        for one in layer_inputs(module, *args, **kwargs):
            _add_layer(seen, prefix, module, one)

    return linear if isinstance(module, nn.Linear) else recurrent


def _add_layer(seen: dict[str, Moments], prefix: str, module: nn.Module, given: LayerInputs) -> None:
    for role, rows in given.rows().items():
        weight = getattr(module, local := f"{role}{given.suffix}", None)
        if isinstance(weight, (Tensor, CoreWeight)):
            _add(seen, prefix + local, rows)
        if isinstance(weight, CoreWeight) and weight.plan.structure.bottleneck:
            _add(seen, bottleneck_of(prefix + local), rows @ weight.factors()[0].to(rows))


def _add(seen: dict[str, Moments], name: str, rows: Tensor) -> None:
    if name not in seen:
        seen[name] = Moments.of_size(rows.shape[-1])
    seen[name].add(rows)
