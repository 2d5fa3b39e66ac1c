"""Whether tensors stand for values that are not there yet."""

from __future__ import annotations

import torch


def is_tracing() -> bool:
    """Return True under torch.compile, torch.export, jit tracing or a functorch transform."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
