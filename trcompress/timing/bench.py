"""A compressed model against its dense original on the user's own machine: time, memory, files.

What a file tells is its recurrent stacks, so these are timed, one at a time, on random inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.errors import UsageError
from trcompress.layers import CoreWeight
from trcompress.timing.onnx_calls import onnx_calls
from trcompress.timing.pair import open_pair
from trcompress.util.hardware import this_machine
from trcompress.util.memory import peak_extra_bytes
from trcompress.util.threads import limited_threads
from trcompress.util.timing import side_by_side

BATCHES, STEPS, SECONDS = (1, 16, 64), 16, 2.0


@dataclass(frozen=True)
class Timing:
    """One stack at one batch size, both models measured in turn.

    Args:
        stack: its name in the files; empty at the root.
        what: "eval", or "train": forward, backward and an SGD update.
        batch: sequences at a time.
        baseline_ms: median of the dense stack.
        artifact_ms: median of the compressed one.
        baseline_peak_bytes: memory taken beyond the state before the call; None where it cannot be known.
        artifact_peak_bytes: the same of the compressed stack.
        chosen: how each compressed weight was evaluated: ring, merged or dense.
        baseline_onnx_ms: median of the dense stack as an ONNX file in onnxruntime; None where it was not asked for.
        artifact_onnx_ms: the same of the compressed stack.
    """

    stack: str
    what: str
    batch: int
    baseline_ms: float
    artifact_ms: float
    baseline_peak_bytes: int | None
    artifact_peak_bytes: int | None
    chosen: dict[str, str]
    baseline_onnx_ms: float | None = None
    artifact_onnx_ms: float | None = None

    @property
    def speedup(self) -> float:
        """How many times faster the compressed stack is."""
        return self.baseline_ms / self.artifact_ms


@dataclass(frozen=True)
class StackMemory:
    """What one stack holds between calls, in float32.

    Args:
        stack: its name.
        baseline_bytes: the dense stack's parameters.
        artifact_bytes: the compressed stack's parameters, cores included.
        kept_bytes: matrices that the compressed stack keeps beside them, in eval mode, to be fast; none with
            `strategy = "ring"`.
    """

    stack: str
    baseline_bytes: int
    artifact_bytes: int
    kept_bytes: int


@dataclass(frozen=True)
class BenchReport:
    """What `trcompress bench` prints.

    Args:
        timings: one per stack, batch size and mode.
        memory: one per stack.
        file_bytes: of the two files as they are.
        tensor_bytes: of the model tensors in them, without optimizer state and the like.
        notes: what the figures cover.
    """

    artifact: str
    baseline: str
    device: str
    threads: int
    steps: int
    machine: dict[str, Any]
    timings: tuple[Timing, ...]
    memory: tuple[StackMemory, ...]
    file_bytes: dict[str, int]
    tensor_bytes: dict[str, int]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        timings = [asdict(one) | {"speedup": one.speedup} for one in self.timings]
        return asdict(self) | {"timings": timings}


def bench(
    artifact: str | Path,
    baseline: str | Path,
    *,
    batches: Sequence[int] = BATCHES,
    steps: int = STEPS,
    train: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    seconds: float = SECONDS,
    onnx: bool = False,
    kind: str | None = None,
    skip_objects: bool = False,
    ignore_unknown: Sequence[str] = (),
) -> BenchReport:
    """Time a compressed model against its dense original, side by side in interleaved rounds.

    Args:
        artifact: the compressed model.
        baseline: the dense checkpoint.
        batches: batch sizes.
        steps: time steps of a sequence.
        train: measure a training step (forward, backward, SGD update) too.
        threads: of PyTorch while measuring; None: as they are.
        device: where to measure.
        seconds: for each stack, batch size and mode.
        onnx: time both as ONNX files in onnxruntime too, in evaluation on the CPU.
        kind: how to read the baseline's layers, see `trcompress.read_checkpoint`.
        skip_objects: leave out Python objects beside the baseline's weights instead of refusing the file.
        ignore_unknown: keys or globs of tensors in a layer's own module that take no part in its steps.

    Raises:
        UsageError: a size that is not positive, or `onnx` on another device than the CPU.
        InputFileError: a file cannot be read, the artifact is not one, the baseline is one, or its layers are
            not the artifact's.

    Example:
        >>> bench("model.tr.safetensors", "model.pt").timings[0].speedup  # doctest: +SKIP
        41.9
    """
    _check_sizes(batches=batches, steps=[steps], seconds=[seconds], threads=[1 if threads is None else threads])
    pair = open_pair(
        Path(artifact), Path(baseline), kind=kind, skip_objects=skip_objects, ignore_unknown=ignore_unknown
    )
    place = torch.device(device)
    if onnx and place.type != "cpu":
        raise UsageError(f"`onnx` is timed on the CPU: got {device}; leave it out, or measure there")
    timings, memory = [], []
    with limited_threads(threads):
        for name in pair.stacks:
            files = {"baseline": pair.dense, "artifact": pair.compressed}
            modules = {side: file.build_stack(name)[0].to(place) for side, file in files.items()}
            found = list(_time_stack(name, modules, batches, steps, train, seconds, onnx))
            timings += [timing for timing, _ in found]
            kept = max(kept for _, kept in found)
            memory.append(
                StackMemory(name, _held_bytes(modules["baseline"]), _held_bytes(modules["artifact"]), kept)
            )
        used = torch.get_num_threads()
    return BenchReport(
        artifact=str(artifact),
        baseline=str(baseline),
        device=str(place),
        threads=used,
        steps=steps,
        machine=this_machine().model_dump(mode="json"),
        timings=tuple(timings),
        memory=tuple(memory),
        file_bytes=pair.file_bytes,
        tensor_bytes=pair.tensor_bytes,
        notes=pair.notes,
    )


def _check_sizes(**sizes: Sequence[float]) -> None:
    wrong = [f"{name}={value}" for name, values in sizes.items() for value in values if value <= 0]
    wrong += [f"{name} is empty" for name, values in sizes.items() if not values]
    if wrong:
        raise UsageError(f"batch sizes, steps, threads and seconds must be positive: got {', '.join(wrong)}")


def _time_stack(
    name: str,
    pair: Mapping[str, Any],
    batches: Sequence[int],
    steps: int,
    train: bool,
    seconds: float,
    onnx: bool,
) -> Iterator[tuple[Timing, int]]:
    """Measure a stack in every mode and batch size; yields what it keeps in memory too."""
    for training in (False, True)[: 1 + train]:
        for batch in batches:
            for module in pair.values():
                module.train(training)
            place = _device(pair["artifact"])
            xs = {side: torch.randn(batch, steps, one.input_size, device=place) for side, one in pair.items()}
            calls = {side: _call(module, xs[side], training) for side, module in pair.items()}
            runtime = onnx_calls(pair, xs, torch.get_num_threads()) if onnx and not training else {}
            ms = side_by_side(calls | runtime, place, seconds)
            peaks = {side: peak_extra_bytes(call, place) for side, call in calls.items()}
            yield (
                Timing(
                    name,
                    "train" if training else "eval",
                    batch,
                    ms["baseline"],
                    ms["artifact"],
                    peaks["baseline"],
                    peaks["artifact"],
                    _forms(pair["artifact"]),
                    ms.get("baseline onnx"),
                    ms.get("artifact onnx"),
                ),
                0 if training else _kept_bytes(pair["artifact"]),
            )


def _forms(module: Any) -> dict[str, str]:
    """How each ring was evaluated; nothing for a layer without one."""
    return dict(module.strategy.chosen) if hasattr(module, "strategy") else {}


def _call(module: nn.Module, x: Tensor, training: bool) -> Callable[[], object]:
    """One forward pass as in serving, or one step of training."""
    if not training:
        return torch.inference_mode()(lambda: module(x))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)  # the values stay; the time is the same

    def step() -> None:
        module(x)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _held_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _kept_bytes(module: nn.Module) -> int:
    return sum(one.kept_bytes for one in module.modules() if isinstance(one, CoreWeight))
