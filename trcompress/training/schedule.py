"""The optimizer and its learning rate: AdamW without decay on biases, linear warm-up, cosine to zero."""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, pi

import torch
from torch import nn

from trcompress.layers import CoreWeight

SCALE = "lr_scale"
"""Key of a parameter group's own factor."""


def lr_factor(step: float, total: int, warmup: float) -> float:
    """Share of the peak learning rate at an optimizer step, counted from 0.

    Example:
        >>> [round(lr_factor(step, 5, 2), 2) for step in range(5)]
        [0.5, 1.0, 1.0, 0.75, 0.25]
    """
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    progress = (step - warmup) / max(1.0, total - warmup)
    return 0.5 * (1 + cos(pi * min(1.0, progress)))


def make_optimizer(
    network: nn.Module, parameters: Iterable[nn.Parameter], *, weight_decay: float, core_lr_scale: float
) -> torch.optim.AdamW:
    """Return AdamW over the parameters, without decay on those of one dimension (biases).

    Args:
        network: where the parameters are from; tells which of them are cores.
        parameters: those that learn.
        weight_decay: of weights and cores.
        core_lr_scale: learning rate of cores, relative to all others.
    """
    cores = {id(core) for one in network.modules() if isinstance(one, CoreWeight) for core in one.parameters()}
    parameters = list(parameters)
    groups = (
        ([p for p in parameters if id(p) in cores], weight_decay, core_lr_scale),
        ([p for p in parameters if id(p) not in cores and p.ndim > 1], weight_decay, 1.0),
        ([p for p in parameters if id(p) not in cores and p.ndim <= 1], 0.0, 1.0),
    )
    return torch.optim.AdamW(
        [{"params": own, "weight_decay": decay, SCALE: scale} for own, decay, scale in groups if own]
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups the learning rate, times their own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[SCALE]
