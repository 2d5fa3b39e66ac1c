"""Ship a network as ONNX or torch.export, checked at once against PyTorch."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trcompress.deploy.module_export import export_onnx_module, export_torch_module
from trcompress.deploy.onnx_graph import OPSET, build_onnx
from trcompress.deploy.parity import Inputs, Parity, check, compare, onnx_runner
from trcompress.deploy.quantize import quantize_onnx
from trcompress.deploy.sequence import SequenceNetwork, open_sequence_network
from trcompress.deploy.to_plain import to_plain
from trcompress.errors import UsageError
from trcompress.util.files import atomic_path, check_output

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
    make_inputs: Callable[[int, int], Inputs]
    notes: tuple[str, ...]
    results: list[tuple[str, Path, int, list[Parity]]] = field(default_factory=list)


def export(
    network: str | Path | nn.Module,
    *,
    onnx: str | Path | None = None,
    torch_export: str | Path | None = None,
    model: str | None = None,
    example: Sequence[torch.Tensor] | None = None,
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
        example: inputs of a module, batch first; None: one input that fits its first recurrent layer.
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
        UsageError: nothing to write, or the parts do not fit the file.
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
    keep = (network,) if isinstance(network, str | Path) else ()
    for path in outputs.values():
        check_output(path, overwrite=overwrite, keep=keep)
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
        return _Task(network, _sequence_inputs(network), ())
    if isinstance(network, nn.Module):
        return _module_task(network, example, type(network).__name__)
    if factory is None:
        found, notes = open_sequence_network(network, **parts)
        return _Task(found, _sequence_inputs(found), notes)
    from trcompress.network.classifier import Wiring
    from trcompress.network.read_classifier import read_classifier

    user: Any = read_classifier(network, Wiring(model=factory)).module
    return _module_task(user.model, example, factory)


def _module_task(module: nn.Module, example: Any, name: str) -> _Task:
    plain = to_plain(module).eval().float()
    note = f"{name}, in modules of torch.nn"
    if example is not None:
        return _Task(plain, _resized(tuple(example)), (note,))
    return _Task(plain, _guessed(plain), (note,))


def _sequence_inputs(network: SequenceNetwork) -> Callable[[int, int], Inputs]:
    table = network.embedding
    first: Any = network.stacks[0]
    width = getattr(first, "rnn", first).input_size

    def make(steps: int, batch: int) -> Inputs:
        noise = torch.Generator().manual_seed(steps * 1000 + batch)
        lengths = torch.randint(1, steps + 1, (batch,), generator=noise)
        lengths[0] = steps
        if table is None:
            return torch.randn(batch, steps, width, generator=noise), lengths
        return torch.randint(table.num_embeddings, (batch, steps), generator=noise), lengths

    return make


def _guessed(module: nn.Module) -> Callable[[int, int], Inputs]:
    """Find inputs that a user's module takes: vectors for its first recurrent layer or tokens of its embedding.

    Raises:
        UsageError: neither fits.
    """
    layers = [one for one in module.modules() if isinstance(getattr(one, "input_size", None), int)]
    tables = [one for one in module.modules() if isinstance(one, nn.Embedding)]
    named = list(inspect.signature(module.forward).parameters)[1:2]
    lengths = bool(named) and "length" in named[0]
    ways = [_maker(None, int(getattr(one, "input_size", 1)), lengths) for one in layers[:1]]
    ways += [_maker(one.num_embeddings, 0, lengths) for one in tables[:1]]
    for make in ways[:: -1 if tables else 1]:
        try:
            with torch.no_grad():
                module(*make(STEPS, BATCH))
        except Exception:  # a guess that does not fit; the next one may
            continue
        return make
    raise UsageError(
        f"no input could be made up for {type(module).__name__}: give `example`, a tuple of tensors that it "
        "takes, batch first"
    )


def _maker(tokens: int | None, width: int, lengths: bool) -> Callable[[int, int], Inputs]:
    def make(steps: int, batch: int) -> Inputs:
        noise = torch.Generator().manual_seed(steps * 1000 + batch)
        x = (
            torch.randn(batch, steps, width, generator=noise)
            if tokens is None
            else torch.randint(tokens, (batch, steps), generator=noise)
        )
        if not lengths:
            return (x,)
        valid = torch.randint(1, steps + 1, (batch,), generator=noise)
        valid[0] = steps
        return x, valid

    return make


def _resized(example: Inputs) -> Callable[[int, int], Inputs]:
    """Inputs of any size from the user's own: rows and steps taken again and again, lengths in proportion."""
    example_steps = example[0].shape[1]

    def make(steps: int, batch: int) -> Inputs:
        found = []
        for one in example:
            rows = one[torch.arange(batch) % len(one)]
            if one.dim() > 1:
                follows = one.shape[1] == example_steps
                found.append(rows[:, torch.arange(steps) % example_steps] if follows else rows)
            elif one.is_floating_point():
                found.append(rows)
            else:
                found.append(_lengths(rows, steps, example_steps))
        return tuple(found)

    return make


def _lengths(rows: torch.Tensor, steps: int, example_steps: int) -> torch.Tensor:
    """Scale lengths to other steps; one fills them all, as the padding of a batch is that of its longest."""
    found = (rows * steps + example_steps - 1).div(example_steps, rounding_mode="floor").clamp(1, steps)
    found[found.argmax()] = steps
    return found


def _write_onnx(task: _Task, out: Path, *, int8: bool, opset: int, steps: int) -> _Task:
    notes = task.notes
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as folder:
        plain = Path(folder) / "plain.onnx"
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
            final = Path(folder) / "int8.onnx"
            quantize_onnx(plain, final)
            sizes = [(one.steps, one.batch) for one in found]
            rounded = compare("onnx int8", task.module, onnx_runner(str(final)), task.make_inputs, sizes)
            results.append(("onnx int8", out, final.stat().st_size, rounded))
        with atomic_path(out) as temporary:
            temporary.write_bytes(final.read_bytes())
    return replace(task, notes=notes, results=results)


def _write_torch(task: _Task, out: Path, steps: int) -> _Task:
    """Write a .pt2 file; lengths would need packed sequences, which torch.export does not follow."""
    takes_lengths = len(task.make_inputs(2, 2)) > 1 and isinstance(task.module, SequenceNetwork)
    make = (lambda T, B: task.make_inputs(T, B)[:1]) if takes_lengths else task.make_inputs
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as folder:
        made = Path(folder) / "made.pt2"
        found, how = export_torch_module(task.module, make, made, steps=steps, batch=BATCH)
        size = made.stat().st_size
        with atomic_path(out) as temporary:
            temporary.write_bytes(made.read_bytes())
    how += "; it takes no lengths: torch.export cannot follow packed sequences" if takes_lengths else ""
    results = [*task.results, ("torch.export", out, size, found)]
    return replace(task, notes=(*task.notes, f"torch.export: {how}"), results=results)
