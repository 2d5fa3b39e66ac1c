"""From a layer's inputs to what the recurrent kernel is fed, for one weight per direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.evaluation import Form, Use, is_tracing

Weight = CoreWeight | Tensor


def bottleneck_forms(weights: Sequence[Weight], use: Use, strategy: str) -> list[Form] | None:
    """Return each direction's form with its place in the kernel's input, or None where the kernel reads x."""
    forms = []
    for weight in weights:
        form = weight.form(use, strategy) if isinstance(weight, CoreWeight) else None
        if form is None or form.kind == "dense":
            return None
        forms.append(form)
    if len(forms) == 1:
        return forms
    widths = [weight.width(form) for weight, form in zip(weights, forms, strict=True)]  # type: ignore[union-attr]
    return [replace(form, offset=sum(widths[:at]), columns=sum(widths)) for at, form in enumerate(forms)]


def project_inputs(
    x: Tensor, weights: Sequence[Any], forms: Sequence[Form], strategy: str
) -> tuple[Tensor, list[Tensor]]:
    """Take the inputs through the bottleneck of each direction.

    Returns:
        (z, one input weight per direction); each weight is zero where z holds the other direction's values, so that
        one bidirectional kernel call serves both.
    """
    keep = strategy != "ring"
    parts = [weight.project(x, form, keep) for weight, form in zip(weights, forms, strict=True)]
    inputs = [_identity(z, form) if V is None else V for (z, V), form in zip(parts, forms, strict=True)]
    zs = [z for z, _ in parts]
    return zs[0] if len(zs) == 1 else torch.cat(zs, -1), inputs


def _identity(z: Tensor, form: Form) -> Tensor:
    width = z.shape[-1]
    make = _make_identity if is_tracing() or type(z) is not Tensor else _shifted_identity
    return make(width, form.offset, form.columns or width, z.dtype, z.device)


def _make_identity(size: int, offset: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    eye = torch.zeros(size, columns, dtype=dtype, device=device)
    eye[:, offset : offset + size].fill_diagonal_(1.0)
    return eye


@lru_cache(maxsize=8)
def _shifted_identity(size: int, offset: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _make_identity(size, offset, columns, dtype, device)


def dense_of(weight: Weight, strategy: str) -> Tensor:
    """Return the weight as the kernel takes it; what is kept as integers is expanded."""
    if isinstance(weight, Tensor):
        return weight
    return weight.weight(strategy != "ring") if isinstance(weight, CoreWeight) else weight.to_dense()


def rounded(rows: Any) -> int:
    """Keep the three leading bits of a number of rows, so that few cases differ.

    Example:
        >>> rounded(96), rounded(100), rounded(1)
        (96, 96, 1)
    """
    if not isinstance(rows, int):
        return 1  # a symbol while tracing, where the form is fixed
    shift = max(0, rows.bit_length() - 3)
    return max(1, rows >> shift << shift)
