"""Ship a network as ONNX or torch.export, checked at once against PyTorch."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trcompress.deploy.inputs import Maker, example_inputs, guessed_inputs, sequence_inputs
from trcompress.deploy.module_export import export_onnx_module, export_torch_module
from trcompress.deploy.onnx_graph import OPSET, build_onnx
from trcompress.deploy.parity import Parity, check, compare, onnx_runner
from trcompress.deploy.quantize import quantize_onnx
from trcompress.deploy.sequence import SequenceNetwork, open_sequence_network
from trcompress.deploy.to_plain import to_plain
from trcompress.errors import UsageError
from trcompress.util.files import atomic_path, check_output, faults_named
from trcompress.util.folders import work_folder

STEPS, BATCH = 16, 2
"""Of the example from which torch's exporters trace."""


@dataclass(frozen=True)
class Export:
    """What `trcompress export` prints.

    Args:
        network: the file, or the class of the module.
        files: kind ("onnx", "onnx int8", "torch.export") to path.
        file_bytes: of each of them, and of the float32 ONNX file behind an int8 one.
        parity: comparisons with PyTorch.
        notes: how the parts were found, and what is frozen.
    """

    network: str
    files: dict[str, str]
    file_bytes: dict[str, int]
    parity: tuple[Parity, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Task:
    """A network with a way to make inputs for it."""

    module: Any
    make_inputs: Maker
    notes: tuple[str, ...]
    results: list[tuple[str, Path, int, list[Parity]]] = field(default_factory=list)


def export(
    network: str | Path | nn.Module,
    *,
    onnx: str | Path | None = None,
    torch_export: str | Path | None = None,
    model: str | None = None,
    example: Tensor | Sequence[Tensor] | str | None = None,
    int8: bool = False,
    opset: int = OPSET,
    steps: int = STEPS,
    overwrite: bool = False,
    stacks: Sequence[str] = (),
    head: str | None = None,
    embedding: str | None = None,
    readout: str = "final",
) -> Export:
    """Write a network for other runtimes, and run the files against PyTorch at three sizes before they appear.

    Args:
        network: an artifact, a dense checkpoint, or a module. What a file says of itself (stacks, embedding, head)
            is written operator by operator, with batch, time and lengths open; a module of your own goes through
            torch's exporters once `to_plain` has made it torch.nn's, and the notes say what they froze.
        onnx: the ONNX file to write.
        torch_export: the .pt2 file to write.
        model: `package.module:factory` of your own network, into which the file is loaded; runs your code.
        example: inputs of your own network, batch first; or `package.module:function` that gives them, which runs
            your code; None: one input that fits its first layers, and lengths where its forward takes them.
        int8: round the ONNX file's weights to int8 with onnxruntime's quantizer.
        opset: version of the ONNX operators, 14 or later.
        steps: time steps where an exporter must trace.
        overwrite: replace existing files.
        stacks: recurrent stacks of a file in order; empty: found by sizes and names.
        head: key of the head's weight; None: found by its shape; "none": there is none.
        embedding: key of the embedding; None: found by shape and name; "none": there is none.
        readout: what the head sees: "final", "last-step" or "mean".

    Returns:
        The files, their bytes, and every comparison.

    Raises:
        UsageError: nothing to write, the parts do not fit the file, or the network does not take the example.
        QualityGateError: a file does not compute what the network does; it is not written.
        MissingExtraError: onnx or onnxruntime is not installed.

    Example:
        >>> export("model.tr.safetensors", onnx="model.onnx").parity[0].holds  # doctest: +SKIP
        True
    """
    targets = {"onnx": onnx, "torch.export": torch_export}
    outputs = {kind: Path(path) for kind, path in targets.items() if path is not None}
    if not outputs or (int8 and onnx is None):
        raise UsageError("export needs a file to write: give `onnx` or `torch_export`; `int8` goes with `onnx`")
    if opset < 14:
        raise UsageError(f"`opset` must be 14 or later: got {opset}")
    if steps < 1:
        raise UsageError(f"`steps` must be at least 1: got {steps}")
    keep = (network,) if isinstance(network, str | Path) else ()
    for path in outputs.values():
        check_output(path, overwrite=overwrite, keep=keep)
    if len({os.path.realpath(path) for path in outputs.values()}) < len(outputs):
        raise UsageError(f"`onnx` and `torch_export` must name two files: both are {onnx}; choose another for one")
    parts: dict[str, Any] = {"stacks": stacks, "head": head, "embedding": embedding, "readout": readout}
    task = _open(network, model, example, parts)
    if "onnx" in outputs:
        task = _write_onnx(task, outputs["onnx"], int8=int8, opset=opset, steps=steps)
    if "torch.export" in outputs:
        task = _write_torch(task, outputs["torch.export"], steps)
    name = str(network) if keep else type(network).__name__
    return Export(
        name,
        {kind: str(path) for kind, path, _, _ in task.results if path in outputs.values()},
        {kind: size for kind, _, size, _ in task.results},
        tuple(one for _, _, _, found in task.results for one in found),
        task.notes,
    )


def _open(network: Any, factory: str | None, example: Any, parts: dict[str, Any]) -> _Task:
    if isinstance(network, SequenceNetwork):
        return _Task(network, sequence_inputs(network), ())
    if isinstance(network, nn.Module):
        return _module_task(network, example, type(network).__name__)
    if factory is None:
        found, notes = open_sequence_network(network, **parts)
        return _Task(found, sequence_inputs(found), notes)
    from trcompress.network.classifier import Wiring
    from trcompress.network.read_classifier import read_classifier

    user: Any = read_classifier(network, Wiring(model=factory)).module
    return _module_task(user.model, example, factory)


def _module_task(module: nn.Module, example: Any, name: str) -> _Task:
    plain = to_plain(module).eval().float()
    make = guessed_inputs(plain) if example is None else example_inputs(plain, example)
    return _Task(plain, make, (f"{name}, in modules of torch.nn",))


def _write_onnx(task: _Task, out: Path, *, int8: bool, opset: int, steps: int) -> _Task:
    notes = task.notes
    with faults_named(out), work_folder(out) as folder:
        plain = folder / "plain.onnx"
        if isinstance(task.module, SequenceNetwork):
            plain.write_bytes(build_onnx(task.module, opset=opset).SerializeToString())
            found = compare("onnx", task.module, onnx_runner(str(plain)), task.make_inputs)
            notes += ("onnx: batch and time are dynamic, the lengths an input; nothing is frozen",)
        else:
            found, how = export_onnx_module(
                task.module, task.make_inputs, plain, steps=steps, batch=BATCH, opset=opset
            )
            notes += (f"onnx: {how}",)
        check(found)
        results = [*task.results, ("onnx", plain if int8 else out, plain.stat().st_size, found)]
        final = plain
        if int8:
            final = folder / "int8.onnx"
            quantize_onnx(plain, final)
            sizes = [(one.steps, one.batch) for one in found]
            rounded = compare("onnx int8", task.module, onnx_runner(str(final)), task.make_inputs, sizes)
            results.append(("onnx int8", out, final.stat().st_size, rounded))
        with atomic_path(out) as temporary:
            temporary.write_bytes(final.read_bytes())
    return replace(task, notes=notes, results=results)


def _write_torch(task: _Task, out: Path, steps: int) -> _Task:
    """Write a .pt2 file; without lengths where they are optional, as torch.export follows no packed sequences."""
    with faults_named(out), work_folder(out) as folder:
        made = folder / "made.pt2"
        write = partial(export_torch_module, task.module, path=made, steps=steps, batch=BATCH)
        optional = _optional(task.module, len(task.make_inputs(2, 2)))
        try:
            found, how = write(make_inputs=task.make_inputs)
        except UsageError:
            if not optional:
                raise
            found, how = write(make_inputs=lambda T, B: task.make_inputs(T, B)[:1])
            how += f"; it takes no {optional}: torch.export cannot follow packed sequences"
        size = made.stat().st_size
        with atomic_path(out) as temporary:
            temporary.write_bytes(made.read_bytes())
    results = [*task.results, ("torch.export", out, size, found)]
    return replace(task, notes=(*task.notes, f"torch.export: {how}"), results=results)


def _optional(module: nn.Module, count: int) -> str:
    """Name the second of two inputs where the network does without it."""
    if count != 2:
        return ""
    second = list(inspect.signature(module.forward).parameters.values())[1:2]
    return second[0].name if second and second[0].default is None else ""
