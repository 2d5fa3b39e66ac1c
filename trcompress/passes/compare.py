"""What a network gives, flattened, and how far two answers lie apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def tensors_in(answer: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of whatever a network returned, in order."""
    if isinstance(answer, Tensor):
        if answer.is_floating_point():
            yield answer
    elif isinstance(answer, PackedSequence):
        yield answer.data
    elif isinstance(answer, Mapping):
        for value in answer.values():
            yield from tensors_in(value)
    elif isinstance(answer, (tuple, list)):
        for value in answer:
            yield from tensors_in(value)


def distance(answers: Any, wanted: Any) -> float:
    """Return ||answers - wanted||^2 / ||wanted||^2 over all their tensors; infinite where their shapes differ."""
    mine, theirs = list(tensors_in(answers)), list(tensors_in(wanted))
    if [one.shape for one in mine] != [one.shape for one in theirs]:
        return float("inf")
    wrong = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(mine, theirs, strict=True))
    size = sum(float(b.double().square().sum()) for b in theirs)
    if not torch.isfinite(torch.tensor(wrong)):
        return float("inf")
    return wrong / max(size, 1e-300)
