"""What of a network's outputs is compared, and how: class scores by divergence, others by squared distance.

    divergence    mean over rows of KL(dense || compressed)
    distance      ||compressed - dense||^2 / ||dense - mean(dense)||^2, over ||dense||^2 where all rows are alike

Nothing is taken for class scores only because its shape would allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from torch.nn.utils.rnn import PackedSequence

from trcompress.errors import UsageError, nearest
from trcompress.network.batches import tensors_of

KINDS_OF_OUTPUT = ("scores", "values", "states")
"""Class scores; numbers of any meaning; the hidden states of the recurrent layers in place of the outputs."""
LOGIT_NAMES = ("logits", "log_probs", "scores")
PASSED_ON = ("View", "Transpose", "Permute", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "ToCopy")
"""Operations behind which a softmax is still looked for."""

Select = Callable[[Any], Any]


@dataclass(frozen=True)
class Outputs:
    """What is compared.

    Args:
        kind: one of `KINDS_OF_OUTPUT`.
        select: takes the network's result and returns the tensor to compare, or several; None takes the first
            tensor of floating point numbers (the one named logits, where there is one).
        axis: of the classes.
        why: how the kind is known, in words.
        label: what is compared, where "outputs" would not say it.
    """

    kind: str
    select: Select | None = None
    axis: int = -1
    why: str = "as asked"
    label: str = ""

    @property
    def measure(self) -> str:
        """The distance in words, as tables print it."""
        return {
            "scores": "divergence of the class scores",
            "values": f"relative squared distance of the {self.label or 'outputs'}",
            "states": "relative squared distance of the hidden states",
        }[self.kind]

    def tensors(self, result: Any) -> list[Tensor]:
        """The compared tensors as rows, (n, C) each."""
        chosen = result if self.select is None else self.select(result)
        found = [one for one in tensors_of(chosen) if one.is_floating_point() and one.dim()]
        if self.select is None:
            found = [_preferred(result, found)] if found else []
        return [one.movedim(self.axis, -1).reshape(-1, one.shape[self.axis]) for one in found]

    def distance(self, mine: Tensor, dense: Tensor) -> Tensor:
        """How far rows are from the dense network's; 0 where they agree."""
        if self.kind != "scores":
            return relative_distance(mine, dense)
        target = log_softmax(dense.float(), dim=-1)
        return kl_div(log_softmax(mine.float(), dim=-1), target, reduction="batchmean", log_target=True)

    def probe(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A random function whose mean squared gradient is the curvature of the distance (Hutchinson's probe)."""
        noise = torch.randn(rows.shape, generator=generator).to(rows)
        if self.kind != "scores":
            return (noise * rows).sum()
        logs = log_softmax(rows, dim=-1)
        return (noise * (0.5 * logs.detach()).exp() * logs).sum()


def find_outputs(model: nn.Module, result: Any, given: str | Outputs | Select | None) -> Outputs:
    """Decide what is compared.

    Args:
        model: the network.
        result: what it gave, with gradients where it gives any.
        given: "scores", "values", "states", a function that selects from the result, or None: class scores where a
            softmax or a cross-entropy shows that they are, else values; states where nothing given is a number.

    Raises:
        UsageError: another word, or nothing in the result can be compared.
    """
    if isinstance(given, Outputs):
        return given
    if isinstance(given, str):
        if given not in KINDS_OF_OUTPUT:
            hint = nearest(given, list(KINDS_OF_OUTPUT))
            raise UsageError(f"outputs must be one of {', '.join(KINDS_OF_OUTPUT)}: got {given!r}{hint}")
        return _checked(Outputs(given), result)
    select = given
    values = Outputs("values", select, why="nothing says that they are class scores")
    found = values.tensors(result)
    if not found and select is None:
        return Outputs("states", why="the network gives no floating point numbers")
    return _checked((_known_scores(model, result, select) if found else None) or values, result)


def _checked(outputs: Outputs, result: Any) -> Outputs:
    if outputs.kind != "states" and not outputs.tensors(result):
        giver, gave = ("the network", result) if outputs.select is None else ("it", outputs.select(result))
        raise UsageError(
            f"outputs must name something to compare: {giver} gave {type(gave).__name__} without a tensor of "
            'floating point numbers; outputs="states" compares hidden states'
        )
    return _one_of_several(outputs, result)


def _one_of_several(outputs: Outputs, result: Any) -> Outputs:
    """Say which entry of a dict is compared, and that its others are not."""
    if outputs.kind == "states" or outputs.select is not None or not isinstance(result, Mapping):
        return outputs
    names = [name for name, value in result.items() if _floats(value)]
    chosen = _preferred(result, _floats(result))
    name = next(name for name in names if any(one is chosen for one in _floats(result[name])))
    others = ", ".join(repr(one) for one in names if one != name)
    if not others:
        return outputs
    why = f"{outputs.why}; {others} {'is' if len(names) == 2 else 'are'} not compared"
    return replace(outputs, label=f"output {name!r}", why=why)


def _known_scores(model: nn.Module, result: Any, select: Select | None) -> Outputs | None:
    raw = _preferred(result, _floats(result if select is None else select(result)))
    softmax = _softmax_axis(raw)
    if softmax is not None:
        name, axis = softmax
        if name == "LogSoftmax":
            return Outputs("scores", select, axis, "they come from a log_softmax")
        return Outputs("scores", _logs_of(select), axis, "they come from a softmax")
    loss = next((type(one).__name__ for one in model.modules() if isinstance(one, nn.CrossEntropyLoss)), None)
    if loss:
        return Outputs("scores", select, why=f"the network holds a {loss}")
    if select is None and _named_logits(result) is not None:
        return Outputs("scores", why="the network calls them logits")
    return None


def _logs_of(select: Select | None) -> Select:
    """Take logarithms of probabilities."""

    def logs(result: Any) -> list[Tensor]:
        chosen = result if select is None else select(result)
        found = _floats(chosen)
        found = [_preferred(result, found)] if select is None else found
        return [one.clamp_min(torch.finfo(one.dtype).tiny).log() for one in found]

    return logs


def _floats(value: Any) -> list[Tensor]:
    return [one for one in tensors_of(value) if one.is_floating_point() and one.dim()]


def _preferred(result: Any, found: list[Tensor]) -> Tensor:
    logits = _named_logits(result)
    return found[0] if logits is None else logits


def _named_logits(result: Any) -> Tensor | None:
    """The tensor that a dict or a record calls logits."""
    if isinstance(result, (Tensor, PackedSequence)):
        return None
    for name in LOGIT_NAMES:
        value = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
        if isinstance(value, Tensor):
            return value
    return None


def _softmax_axis(tensor: Tensor) -> tuple[str, int] | None:
    """The softmax that gave a tensor, and its axis counted from the end; behind views of it, the last axis."""
    node: Any = tensor.grad_fn
    while node is not None:
        name = type(node).__name__.removesuffix("0").removesuffix("Backward")
        if name.endswith("Softmax"):
            return name, _axis(node, tensor.dim()) if node is tensor.grad_fn else -1
        if not any(part in name for part in PASSED_ON) or not node.next_functions:
            return None
        node = node.next_functions[0][0]
    return None


def _axis(node: Any, dimensions: int) -> int:
    saved = int(node._saved_dim)
    signed = saved - 2**64 if saved >= 2**63 else saved  # autograd keeps it as an unsigned number
    return signed if signed < 0 else signed - dimensions


def relative_distance(mine: Tensor, dense: Tensor) -> Tensor:
    """Squared distance over the variance of what it should be; over its size where rows do not differ."""
    spread, size = (dense - dense.mean(0)).square().sum(), dense.square().sum()
    info = torch.finfo(dense.dtype)
    scale = torch.where(spread > (10 * info.eps) ** 2 * size, spread, size).clamp_min(info.tiny)
    return (mine - dense).square().sum() / scale
