"""What `trcompress inspect` tells of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from trcompress.checkpoint.dense import Checkpoint
from trcompress.checkpoint.opening import read_checkpoint
from trcompress.checkpoint.recurrent import Layer
from trcompress.checkpoint.suggestion import suggested_ratio

_LARGEST = 5


@dataclass(frozen=True)
class LayerSummary:
    """One recurrent layer in one direction.

    Args:
        weight: key of its input-to-hidden weight.
        weight_parameters: values in that weight: what `decompose` replaces.
        parameters: values in all the layer's tensors.
        share: those as a fraction of the whole model.
        dtype: of the weight.
        decided_by: how LSTM, GRU and RNN were told apart.
        stack: module path; the other fields are those of `Layer`.
    """

    stack: str
    kind: str
    layer: int
    direction: str
    input_size: int
    hidden_size: int
    proj_size: int
    cell: bool
    bias: bool
    dtype: str
    weight: str
    weight_parameters: int
    parameters: int
    share: float
    decided_by: str


@dataclass(frozen=True)
class TensorSummary:
    """One tensor that is not recurrent."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int


@dataclass(frozen=True)
class Inspection:
    """A checkpoint in figures.

    Args:
        path: the file.
        format: "torch-zip", "torch-legacy", "safetensors" or "npz".
        size_bytes: of the file.
        parameters: of the whole model, tied weights counted once.
        layers: every recurrent layer.
        recurrent_parameters: of all of them.
        other_tensors: how many tensors are not recurrent.
        other_parameters: values in those.
        largest_other: the largest of them.
        shared: groups of tied weights.
        ignored: what the file holds that is not the model -> why it was left out.
        unreadable: tensors that no artifact can hold -> what they are.
        unknown: stack -> tensors in the layer's own module that its kind cannot use.
        nonfinite: tensors that hold NaN or Inf -> how many.
        obstacles: why it cannot be compressed as it is, each with the way out; empty where it can.
        notes: wrappers stripped, weights folded, which model was picked.
        suggested_ratio: a goal for `plan` that keeps the network alive.
    """

    path: str
    format: str
    size_bytes: int
    parameters: int
    layers: tuple[LayerSummary, ...]
    recurrent_parameters: int
    other_tensors: int
    other_parameters: int
    largest_other: tuple[TensorSummary, ...]
    shared: tuple[tuple[str, ...], ...]
    ignored: Mapping[str, str]
    unreadable: Mapping[str, str]
    unknown: Mapping[str, tuple[str, ...]]
    nonfinite: Mapping[str, int]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]
    suggested_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain containers, for JSON."""
        return asdict(self)


def inspect(source: str | Path | Checkpoint, *, kind: str | None = None) -> Inspection:
    """Describe a checkpoint; its values are looked at in blocks, never held.

    Args:
        source: a path, or an opened checkpoint.
        kind: see `read_checkpoint`.

    Raises:
        InputFileError: the file cannot be read or holds no recurrent layer.
        UnsafeFileError: it holds more than weights.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save(torch.nn.LSTM(64, 32).state_dict(), path)
        >>> inspect(path).layers[0].weight_parameters
        8192
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source, kind=kind)
    repeated = {key for group in checkpoint.shared for key in group[1:]}
    counts = {key: 0 if key in repeated else prod(shape) for key, shape in checkpoint.shapes.items()}
    recurrent = {key for layer in checkpoint.layers for key in layer.keys.values()}
    others = [key for key in checkpoint.shapes if key not in recurrent]
    total = sum(counts.values())
    return Inspection(
        path=str(checkpoint.path),
        format=checkpoint.format,
        size_bytes=checkpoint.size_bytes,
        parameters=total,
        layers=tuple(_summarise(layer, checkpoint, total) for layer in checkpoint.layers),
        recurrent_parameters=sum(counts[key] for key in recurrent),
        other_tensors=len(others),
        other_parameters=sum(counts[key] for key in others),
        largest_other=tuple(
            TensorSummary(key, checkpoint.shapes[key], checkpoint.dtypes[key], prod(checkpoint.shapes[key]))
            for key in sorted(others, key=lambda key: -prod(checkpoint.shapes[key]))[:_LARGEST]
        ),
        shared=checkpoint.shared,
        ignored=dict(checkpoint.ignored),
        unreadable=checkpoint.lost,
        unknown=dict(checkpoint.unknown),
        nonfinite=dict(checkpoint.nonfinite),
        obstacles=checkpoint.obstacles,
        notes=checkpoint.notes,
        suggested_ratio=suggested_ratio(checkpoint.layers),
    )


def _summarise(layer: Layer, checkpoint: Checkpoint, total: int) -> LayerSummary:
    weight = layer.keys["weight_ih"]
    return LayerSummary(
        stack=layer.stack,
        kind=layer.kind,
        layer=layer.index,
        direction=layer.direction,
        input_size=layer.input_size,
        hidden_size=layer.hidden_size,
        proj_size=layer.proj_size,
        cell=layer.cell,
        bias="bias_ih" in layer.keys,
        dtype=checkpoint.dtypes[weight],
        weight=weight,
        weight_parameters=prod(layer.shapes["weight_ih"]),
        parameters=layer.parameters,
        share=layer.parameters / total,
        decided_by=layer.decided_by,
    )
