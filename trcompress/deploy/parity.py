"""Whether an exported file computes what the network does: both run on the same inputs of several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trcompress.deploy.onnx_graph import require_onnx
from trcompress.errors import InputFileError, MissingExtraError, QualityGateError, UsageError

SIZES = ((1, 1), (7, 3), (20, 16))
"""Steps and sequences at which a file is checked."""
TOLERANCE = 1e-4
"""Largest difference from PyTorch, relative to the largest output, or to 1 where that is less."""

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Parity:
    """One comparison with PyTorch.

    Args:
        file: what was run: "onnx", "onnx int8" or "torch.export".
        steps: T.
        batch: B.
        difference: largest absolute difference over all outputs.
        largest: largest absolute output of PyTorch's.
    """

    file: str
    steps: int
    batch: int
    difference: float
    largest: float

    @property
    def holds(self) -> bool:
        """Whether the difference is rounding."""
        return self.difference <= TOLERANCE * max(1.0, self.largest)


def compare(
    file: str,
    expected: Callable[..., Any],
    runs: Callable[[Inputs], Sequence[Tensor]],
    make_inputs: Callable[[int, int], Inputs],
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[Parity]:
    """Run both at every size.

    Args:
        file: a name for the result.
        expected: the network.
        runs: the exported file: its outputs for some inputs.
        make_inputs: of (steps, batch).
        sizes: of (steps, batch).
    """
    found = []
    for steps, batch in sizes:
        inputs = make_inputs(steps, batch)
        with torch.no_grad():
            wanted, given = flat(expected(*inputs)), runs(inputs)
        pairs = list(zip(wanted, given, strict=True))
        difference = max(float((mine.float() - other.float()).abs().max()) for mine, other in pairs)
        found.append(Parity(file, steps, batch, difference, max(float(mine.abs().max()) for mine in wanted)))
    return found


def check(found: Sequence[Parity]) -> None:
    """Refuse a file that computes something else.

    Raises:
        InputFileError: what the network gives is not finite, so nothing can be compared.
        QualityGateError: a difference is more than rounding.
    """
    for one in found:
        if not math.isfinite(one.difference):
            raise InputFileError(
                f"what the network gives must be finite: at {one.steps} steps and {one.batch} sequences of random "
                f"inputs the largest is {one.largest:.3g}, so the {one.file} file cannot be checked; "
                "nothing was written"
            )
    wrong = [one for one in found if not one.holds]
    if wrong:
        worst = max(wrong, key=lambda one: one.difference)
        raise QualityGateError(
            f"the {worst.file} file must compute what the network does: at {worst.steps} steps and {worst.batch} "
            f"sequences it is off by {worst.difference:.3g}; nothing was written"
        )


def flat(value: Any) -> list[Tensor]:
    """Return all tensors of a result, in order, however it is nested."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in flat(part)]


def onnx_runner(path: str) -> Callable[[Inputs], list[Tensor]]:
    """Open an ONNX file with onnxruntime, on the CPU; inputs are given in order.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    session = onnx_session(path)
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        given = dict(zip(names, (one.numpy() for one in inputs), strict=False))
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run


def onnx_session(path: str, threads: int | None = None) -> Any:
    """Open an ONNX file with onnxruntime on the CPU.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        UsageError: it cannot open the file, as where the operators are newer than it is; its words are quoted.
    """
    require_onnx()
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("running ONNX files needs the extra: pip install 'trcompress[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised; a route that fails is no news
    if threads:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes that it does not share
        last = str(error).strip().rstrip(".").rpartition(". ")[2][-200:]
        remedy = "try another `opset`" if "opset" in last else "ship it by another way"
        raise UsageError(
            f"onnxruntime {onnxruntime.__version__} cannot open the file: {last}; {remedy}; nothing was written"
        ) from error
