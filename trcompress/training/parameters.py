"""Which parameters learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from trcompress.errors import UsageError
from trcompress.layers import CoreWeight
from trcompress.network.classifier import Classifier


def select_parameters(student: Classifier, learnable: Sequence[str], freeze: Sequence[str]) -> list[nn.Parameter]:
    """Choose the parameters that learn, and switch off the gradients of all others.

    Args:
        student: the network.
        learnable: names of the parameters that may learn at all.
        freeze: "hh" keeps the recurrent weights, "head" the classifier's last layer.

    Raises:
        UsageError: none is left, or the network has no such part.
    """
    if "head" in freeze and not student.head:
        raise UsageError("`freeze=head` needs to know the head of a model of your own: name it with `head`")
    may = set(learnable)
    frozen = {id(one) for one in _recurrent(student, "_hh")} if "hh" in freeze else set()
    chosen = []
    for name, parameter in student.module.named_parameters():
        learns = name in may and id(parameter) not in frozen
        learns = learns and not ("head" in freeze and name in student.head)
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
