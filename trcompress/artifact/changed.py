"""Cores that are no longer what a decomposition found: errors that were measured on them say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trcompress.model.header import Weight

AS_FOUND = "the error is of the cores as they were found: they have changed since"
"""Note of a weight whose cores were trained or rounded after they were measured."""


def noted(weights: Sequence[Weight], before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> tuple[Weight, ...]:
    """Note on every weight whose cores differ that its error is of what they were.

    Args:
        weights: with the errors that were measured on `before`.
        before: tensors by key.
        now: tensors by key, those that the file will hold.
    """
    return tuple(
        one.model_copy(update={"notes": (*one.notes, AS_FOUND)})
        if one.error is not None and AS_FOUND not in one.notes and _differ(one.name, before, now)
        else one
        for one in weights
    )


def _differ(name: str, before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> bool:
    cores = [key for key in before if key.rpartition(".core.")[0] == name]
    return any(key not in now or not torch.equal(before[key].cpu(), now[key].cpu()) for key in cores)
