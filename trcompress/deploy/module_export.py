"""A user's own network through torch's exporters, as dynamic as they can make it; what stays frozen is said."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trcompress.deploy.onnx_layers import refuse_projections
from trcompress.deploy.parity import Inputs, Parity, compare, onnx_runner
from trcompress.deploy.traced import ReadsPackedOutputs
from trcompress.errors import MissingExtraError, UsageError

AXES: tuple[dict[int, str], ...] = ({0: "batch", 1: "time"}, {0: "batch"}, {})
"""Dimensions that are left open, the most first."""


def export_onnx_module(
    module: nn.Module, make_inputs: Callable[[int, int], Inputs], path: Path, *, steps: int, batch: int, opset: int
) -> tuple[list[Parity], str]:
    """Write a module as ONNX through torch's exporters: the first file that computes the same, the most open first.

    Args:
        module: modules of torch.nn alone, in eval mode; called with the inputs.
        make_inputs: of (steps, batch).
        path: the file.
        steps: of the example that is traced.
        batch: of it.
        opset: version of the operators.

    Returns:
        The comparisons with PyTorch, and what is frozen, in words.

    Raises:
        UsageError: no exporter gives a file that computes the same; their words are quoted.
        UsageError: an LSTM with projections, for which ONNX has no operator.
        MissingExtraError: an exporter's package is not installed.
    """
    refuse_projections(module)
    faults = []
    inputs = make_inputs(steps, batch)
    for axes in AXES:
        for dynamo in (True, False):
            try:
                with _quietly():
                    _to_onnx(module, inputs, path, axes, dynamo=dynamo, opset=opset)
                found = compare("onnx", module, onnx_runner(str(path)), make_inputs, open_sizes(axes, steps, batch))
            except MissingExtraError:
                raise
            except Exception as error:  # exporters raise what they like
                faults.append(f"{_name(dynamo)}: {_first_line(error)}")
                continue
            if all(one.holds for one in found):
                return found, f"{_name(dynamo)}; {frozen(axes, steps, batch)}{_other_opset(path, opset)}"
            faults.append(f"{_name(dynamo)}: its file is off by {max(one.difference for one in found):.3g}")
    raise UsageError(f"torch's exporters cannot follow this network: {'; '.join(dict.fromkeys(faults))}")


def export_torch_module(
    module: nn.Module, make_inputs: Callable[[int, int], Inputs], path: Path, *, steps: int, batch: int
) -> tuple[list[Parity], str]:
    """Write a module with torch.export; see `export_onnx_module`.

    Raises:
        UsageError: torch.export cannot follow the module.
    """
    inputs, faults = make_inputs(steps, batch), []
    for axes in AXES:
        shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes if axis < one.dim()} for one in inputs)
        try:
            with _quietly():
                torch.export.save(torch.export.export(module, inputs, dynamic_shapes=shapes), path)
                loaded = torch.export.load(path).module()
            found = compare(
                "torch.export",
                module,
                lambda given, run=loaded: _tensors(run(*given)),  # type: ignore[misc]
                make_inputs,
                open_sizes(axes, steps, batch),
            )
        except Exception as error:  # torch.export raises what it likes
            faults.append(_first_line(error))
            continue
        if all(one.holds for one in found):
            return found, f"torch.export; {frozen(axes, steps, batch)}"
    raise UsageError(f"torch.export cannot follow this network: {'; '.join(dict.fromkeys(faults))}")


def open_sizes(axes: dict[int, str], steps: int, batch: int) -> list[tuple[int, int]]:
    """Three sizes (T, B) that a file with these open dimensions must take.

    Example:
        >>> open_sizes({0: "batch"}, 16, 2)
        [(16, 1), (16, 3), (16, 16)]
    """
    from trcompress.deploy.parity import SIZES

    return [(T if 1 in axes else steps, B if 0 in axes else batch) for T, B in SIZES]


def frozen(axes: dict[int, str], steps: int, batch: int) -> str:
    """Say which dimensions a file has fixed.

    Example:
        >>> frozen({0: "batch"}, 16, 2)
        'frozen: time at 16 steps'
    """
    fixed = [text for axis, text in ((0, f"batch at {batch}"), (1, f"time at {steps} steps")) if axis not in axes]
    return f"frozen: {', '.join(fixed)}" if fixed else "batch and time are dynamic"


def _to_onnx(
    module: nn.Module, inputs: Inputs, path: Path, axes: dict[int, str], *, dynamo: bool, opset: int
) -> None:
    names = ["x", "lengths"][: len(inputs)]
    if not dynamo and len(inputs) > 1:  # a trace of packing holds for all lengths only if these come sorted
        inputs = tuple(one.sort(descending=True).values if one.dim() == 1 else one for one in inputs)
        module = ReadsPackedOutputs(copy.deepcopy(module))
    open_axes = [{axis: name for axis, name in axes.items() if axis < one.dim()} for one in inputs]
    if dynamo:
        shapes = tuple(dict.fromkeys(one, torch.export.Dim.DYNAMIC) for one in open_axes)
        options: dict[str, Any] = {"dynamic_shapes": shapes, "external_data": False, "verbose": False}
    else:
        options = {"dynamic_axes": dict(zip(names, open_axes, strict=True))}
    torch.onnx.export(module, inputs, str(path), dynamo=dynamo, input_names=names, opset_version=opset, **options)


def _other_opset(path: Path, asked: int) -> str:
    """Say which operators a file has where the exporter could not give those that were asked for."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    found = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return "" if found == asked else f"; operators of opset {found}, not {asked}"


def _tensors(value: Any) -> list[torch.Tensor]:
    from trcompress.deploy.parity import flat

    return flat(value)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep exporters from talking; what matters of it is said by what is frozen."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _name(dynamo: bool) -> str:
    return "torch.onnx by torch.export" if dynamo else "torch.onnx by tracing"


def _first_line(error: BaseException) -> str:
    """Quote what went wrong in one line: an exporter's error wraps the one that says it, and colours it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [one for one in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if one.strip()]
    # a line that ends in a colon announces the next one
    text = " ".join(line.strip() for line in lines[: 2 if lines and lines[0].rstrip().endswith(":") else 1])
    return f"{type(error).__name__}: {text[:160]}"
