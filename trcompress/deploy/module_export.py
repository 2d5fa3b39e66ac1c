"""A user's own network through torch's exporters, as dynamic as they can make it; what stays frozen is said."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trcompress.deploy.inputs import Maker, input_names, open_dimensions, output_names
from trcompress.deploy.onnx_layers import refuse_projections
from trcompress.deploy.parity import SIZES, Inputs, Parity, compare, flat, onnx_runner
from trcompress.deploy.traced import ReadsPackedOutputs
from trcompress.errors import MissingExtraError, UsageError

OPEN = (("batch", "time"), ("batch",), ())
"""Dimensions that are left open, the most first."""

Axes = list[dict[int, str]]
"""Which dimensions of each input are open, and their names."""


def export_onnx_module(
    module: nn.Module, make_inputs: Maker, path: Path, *, steps: int, batch: int, opset: int
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
    faults: list[str] = []
    inputs, steps, ways = _ways(make_inputs, steps, batch)
    for left_open, axes in ways:
        sizes = open_sizes(left_open, steps, batch)
        for dynamo in (True, False):
            try:
                with _quietly():
                    _to_onnx(module, inputs, path, axes, dynamo=dynamo, opset=opset)
                    _name_output_dimensions(path, module, make_inputs, (steps, batch), left_open)
                    found = compare("onnx", module, onnx_runner(str(path)), make_inputs, sizes)
            except (MissingExtraError, OSError):
                raise
            except Exception as error:  # exporters raise what they like
                faults.append(f"{_name(dynamo)}: {_first_line(error)}")
                continue
            if all(one.holds for one in found):
                return found, f"{_name(dynamo)}; {frozen(left_open, steps, batch)}{_other_opset(path, opset)}"
            faults.append(f"{_name(dynamo)}: its file is off by {max(one.difference for one in found):.3g}")
    raise UsageError(f"torch's exporters cannot follow this network: {'; '.join(dict.fromkeys(faults))}")


def export_torch_module(
    module: nn.Module, make_inputs: Maker, path: Path, *, steps: int, batch: int
) -> tuple[list[Parity], str]:
    """Write a module with torch.export; see `export_onnx_module`.

    Raises:
        UsageError: torch.export cannot follow the module.
    """
    faults: list[str] = []
    inputs, steps, ways = _ways(make_inputs, steps, batch)
    for left_open, axes in ways:
        shapes = tuple(dict.fromkeys(one, torch.export.Dim.DYNAMIC) for one in axes)
        try:
            with _quietly():
                program = io.BytesIO()  # where a disk is full, torch's writer may abort the process
                torch.export.save(torch.export.export(module, inputs, dynamic_shapes=shapes), program)
                path.write_bytes(program.getvalue())
                loaded = torch.export.load(path).module()
            found = compare(
                "torch.export",
                module,
                lambda given, run=loaded: flat(run(*given)),  # type: ignore[misc]
                make_inputs,
                open_sizes(left_open, steps, batch),
            )
        except OSError:
            raise
        except Exception as error:  # torch.export raises what it likes
            faults.append(_first_line(error))
            continue
        if all(one.holds for one in found):
            return found, f"torch.export; {frozen(left_open, steps, batch)}"
    raise UsageError(f"torch.export cannot follow this network: {'; '.join(dict.fromkeys(faults))}")


def _ways(make_inputs: Maker, steps: int, batch: int) -> tuple[Inputs, int, list[tuple[Sequence[str], Axes]]]:
    """Inputs to trace from, their steps, and the sets of open dimensions to try."""
    dimensions = open_dimensions(make_inputs, steps, batch)
    inputs = make_inputs(steps, batch)
    if not any("time" in one.values() for one in dimensions):  # the network takes the steps of its example alone
        steps = inputs[0].shape[1] if inputs[0].dim() > 1 else 1
    ways: list[tuple[Sequence[str], Axes]] = []
    for left_open in OPEN:
        axes = [{axis: name for axis, name in one.items() if name in left_open} for one in dimensions]
        if all(any(name in one.values() for one in axes) for name in left_open):
            ways.append((left_open, axes))
    return inputs, steps, ways


def open_sizes(left_open: Sequence[str], steps: int, batch: int) -> list[tuple[int, int]]:
    """Three sizes (T, B) that a file with these open dimensions must take.

    Example:
        >>> open_sizes(["batch"], 16, 2)
        [(16, 1), (16, 3), (16, 16)]
    """
    return [(T if "time" in left_open else steps, B if "batch" in left_open else batch) for T, B in SIZES]


def frozen(left_open: Sequence[str], steps: int, batch: int) -> str:
    """Say which dimensions a file has fixed.

    Example:
        >>> frozen(["batch"], 16, 2)
        'frozen: time at 16 steps'
    """
    texts = {"batch": f"batch at {batch}", "time": f"time at {steps} steps"}
    fixed = [text for name, text in texts.items() if name not in left_open]
    return f"frozen: {', '.join(fixed)}" if fixed else "batch and time are dynamic"


def _to_onnx(module: nn.Module, inputs: Inputs, path: Path, axes: Axes, *, dynamo: bool, opset: int) -> None:
    names = list(input_names(module, len(inputs)))
    with torch.no_grad():
        outputs = [f"{one}_out" if one in names else one for one in output_names(module(*inputs))]
    if not dynamo and len(inputs) > 1:  # a trace of packing holds for all lengths only if these come sorted
        inputs = tuple(one.sort(descending=True).values if one.dim() == 1 else one for one in inputs)
        module = ReadsPackedOutputs(copy.deepcopy(module))
    if dynamo:
        options: dict[str, Any] = {"dynamic_shapes": tuple(axes), "external_data": False, "verbose": False}
    else:
        options = {"dynamic_axes": dict(zip(names, axes, strict=True))}
    options |= {"input_names": names, "output_names": outputs, "opset_version": opset}
    torch.onnx.export(module, inputs, str(path), dynamo=dynamo, **options)


def _name_output_dimensions(
    path: Path, module: nn.Module, make_inputs: Maker, size: tuple[int, int], left_open: Sequence[str]
) -> None:
    """Declare which dimensions of a file's outputs follow batch and time; exporters note those of the example."""
    import onnx

    @torch.no_grad()
    def run(steps: int, batch: int) -> Inputs:
        return tuple(flat(module(*make_inputs(steps, batch))))

    model = onnx.load(str(path))
    for output, axes in zip(model.graph.output, open_dimensions(run, *size), strict=True):
        declared = output.type.tensor_type.shape.dim
        for axis, name in axes.items():
            if name in left_open and axis < len(declared):
                declared[axis].dim_param = name
    onnx.save(model, str(path))


def _other_opset(path: Path, asked: int) -> str:
    """Say which operators a file has where the exporter could not give those that were asked for."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    found = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return "" if found == asked else f"; operators of opset {found}, not {asked}"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep exporters from talking, their C++ too; what matters of it is said by what is frozen."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with _no_stderr(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Send what C++ code writes to descriptor 2 nowhere: no setting of torch's silences it once it is loaded."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
