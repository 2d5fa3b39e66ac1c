"""The optimizer and its learning rate: AdamW without decay on biases, linear warm-up, cosine to zero."""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, pi

import torch
from torch import nn


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


def make_optimizer(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over the parameters; those of one dimension (biases) are not decayed."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
