"""Which parameters learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from trcompress.errors import UsageError
from trcompress.layers import CoreWeight
from trcompress.network.classifier import Classifier
from trcompress.training.distill import ring_weights


def select_parameters(
    student: Classifier, learnable: Sequence[str], freeze: Sequence[str], *, only_gates: bool = False
) -> list[nn.Parameter]:
    """Choose the parameters that learn, and switch off the gradients of all others.

    Args:
        student: the network.
        learnable: names of the parameters that may learn at all.
        freeze: "hh" keeps the recurrent weights, "head" the classifier's last layer.
        only_gates: nothing but cores and the biases beside them.

    Raises:
        UsageError: none is left, or the network has no such part.
    """
    if "head" in freeze and not student.head:
        raise UsageError("`freeze=head` needs to know the head of a model of your own: name it with `head`")
    may = set(learnable)
    frozen = {id(one) for one in _recurrent(student, "_hh")} if "hh" in freeze else set()
    fitted = {id(one) for one in _gate_parameters(student)}
    chosen = []
    for name, parameter in student.module.named_parameters():
        learns = name in may and id(parameter) not in frozen
        learns = learns and not ("head" in freeze and name in student.head)
        learns = learns and (not only_gates or id(parameter) in fitted)
        parameter.requires_grad_(learns)
        if learns:
            chosen.append(parameter)
    if not chosen:
        raise UsageError(f"nothing is left to train: freeze is {', '.join(freeze) or 'empty'}")
    return chosen


@torch.no_grad()
def redraw(student: Classifier, seed: int) -> None:
    """Draw all weights anew, as if the network had never been trained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: Any
        for module in student.module.modules():
            if hasattr(module, "reset_parameters") and not isinstance(module, CoreWeight):  # its layer draws it
                module.reset_parameters()


def _recurrent(student: Classifier, part: str) -> Iterator[nn.Parameter]:
    for module in student.recurrent.values():
        yield from (parameter for name, parameter in module.named_parameters() if part in name)


def _gate_parameters(student: Classifier) -> Iterator[nn.Parameter]:
    """The cores of every ring, and the input bias that is added to what they give."""
    for module in student.recurrent.values():
        for name, weight in ring_weights(module).items():
            yield from weight.parameters()
            bias = getattr(module, name.replace("weight", "bias"), None)
            if bias is not None:
                yield bias
