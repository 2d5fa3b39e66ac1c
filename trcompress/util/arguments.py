"""Checks of what a user passes in Python, before anything slow begins."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset

from trcompress.errors import UsageError


def check_model(model: object) -> None:
    """Refuse what is no network, or none that can be changed.

    Raises:
        UsageError: it is no torch.nn.Module, is compiled by TorchScript, or was made for inference alone.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model must be a torch.nn.Module: got {type(model).__name__}; load weights into your network "
            "first, or give their file to trcompress.decompose"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("the model must be Python code: got what TorchScript made of it; give the original module")
    if torch.is_inference_mode_enabled() or any(one.is_inference() for one in model.parameters()):
        raise UsageError(
            "the model cannot be changed or differentiated under torch.inference_mode: build it, and call this, "
            "outside of it; torch.no_grad is fine"
        )


def check_batches(name: str, batches: object) -> None:
    """Refuse what can be gone through and holds no batches: one tensor, a name, a dict, a data set.

    Raises:
        UsageError: the message names the argument and a way out.
    """
    if isinstance(batches, Dataset):
        raise UsageError(
            f"`{name}` must be batches: got a {type(batches).__name__}, whose items are single examples; give "
            "DataLoader(dataset, batch_size=32), or batch_size=None where its items are batches"
        )
    single = isinstance(batches, (Tensor, PackedSequence, np.ndarray, str, bytes, Mapping))
    if single or (batches is not None and not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__")):
        split = ", or x.split(64)" if isinstance(batches, Tensor) else ""
        raise UsageError(
            f"`{name}` must be batches, as a DataLoader gives them: got one {type(batches).__name__}; "
            f"give a list of batches, [x]{split}"
        )


def check_numbers(least: Mapping[str, float], **given: Any) -> None:
    """Refuse numbers that are none, not finite, or too small; None passes.

    Args:
        least: the smallest value of an argument that has one; a whole number there asks for whole numbers.
        given: arguments by name.

    Raises:
        UsageError: the message names the argument.

    Example:
        >>> check_numbers({"refine": 0}, refine=300, target_ratio=None)
    """
    for name, value in given.items():
        bound = least.get(name)
        kind = Integral if isinstance(bound, int) else Real
        words = "a whole number" if kind is Integral else "a finite number"
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, kind) or not isfinite(value):
            raise UsageError(f"`{name}` must be {words}: got {value!r}")
        if bound is not None and value < bound:
            raise UsageError(f"`{name}` must be {bound:g} or more: got {value}")
