"""Checks of what a user passes in Python, before anything slow begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
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


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments of a function that have a default, with it."""
    every = inspect.signature(function).parameters
    return {name: one.default for name, one in every.items() if one.default is not one.empty}


def changed_from_default(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a call gives other values than the function's defaults.

    Example:
        >>> def fit(model, refine=0, layers="*", storage=("int8",)): ...
        >>> changed_from_default(fit, {"model": 1, "refine": 3, "layers": "*", "storage": ["int8"]})
        {'refine': 3}
    """
    defaults = defaults_of(function)
    return {name: value for name, value in given.items() if name in defaults and not _same(value, defaults[name])}


def refuse_unused(given: Collection[str], unused: Collection[str], where: str, advice: str) -> None:
    """Refuse arguments that a call gives and would not use.

    Args:
        given: names of arguments with other values than their defaults.
        unused: names that this call has no use for.
        where: in which calls they are of no use, "without `calibrate`".
        advice: what to do.

    Raises:
        UsageError: all of them are named.

    Example:
        >>> refuse_unused({"lr": 0.1}, ("lr", "epochs"), "without `finetune`", "name data to train on")
        Traceback (most recent call last):
            ...
        trcompress.errors.UsageError: `lr` would not be used without `finetune`: name data to train on
    """
    if named := [f"`{name}`" for name in unused if name in given]:
        raise UsageError(f"{', '.join(named)} would not be used {where}: {advice}")


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(default, tuple):
        return tuple(value) == default
    return value is default or (type(value) is type(default) and bool(value == default))
