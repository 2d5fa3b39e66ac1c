"""A model's file as the trainer sees it, dense or compressed: layers, structures, and tensors on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.checkpoint import Checkpoint, is_artifact, read_checkpoint
from trcompress.layers.stacks import build_stack, load_stack
from trcompress.model.layer import Layer, by_stack
from trcompress.model.plan import WeightPlan


@dataclass(frozen=True)
class ModelFile:
    """What an artifact and a dense checkpoint have in common.

    Args:
        path: the file.
        stacks: recurrent stacks by name; cells appear as one-layer sequences.
        plans: structure of every compressed weight, by key; empty for a dense checkpoint.
        shapes: shape of every tensor, by key.
        tensor: reads one tensor.
        artifact: the artifact, if it is one.
    """

    path: Path
    stacks: Mapping[str, Sequence[Layer]]
    plans: Mapping[str, WeightPlan]
    shapes: Mapping[str, tuple[int, ...]]
    tensor: Callable[[str], Tensor]
    artifact: Artifact | None = None

    @property
    def recurrent_keys(self) -> set[str]:
        """Keys of all tensors that belong to recurrent layers, cores included."""
        named = {key for layers in self.stacks.values() for layer in layers for key in layer.keys.values()}
        return {key for key in self.shapes if key in named or key.partition(".core.")[0] in named}

    def build_stack(self, name: str, **options: Any) -> tuple[nn.Module, dict[str, str]]:
        """Build one stack in float32 with its own copy of the weights.

        Returns:
            The module, and for each name in its state the key in the file.
        """
        layers = self.stacks[name]
        options = {"batch_first": True, "nonlinearity": layers[0].nonlinearity, **options}
        module = build_stack(layers, self.plans, **options)
        names = {one.local_name(role): key for one in layers for role, key in one.keys.items()}
        keys = {}
        for local in module.state_dict():
            root, dot, rest = local.partition(".")
            keys[local] = names.get(root, root) + dot + rest
        own = {key: self.tensor(key).float().clone() for key in keys.values() if key in self.shapes}
        return load_stack(module, layers, own), keys


def open_model(path: str | Path) -> ModelFile:
    """Open an artifact or a dense checkpoint.

    Raises:
        InputFileError: neither, or damaged; see `read_artifact` and `read_checkpoint`.
    """
    path = Path(path)
    if is_artifact(path):
        return of_artifact(read_artifact(path), path)
    return of_checkpoint(read_checkpoint(path), path)


def of_artifact(artifact: Artifact, path: Path) -> ModelFile:
    """See an artifact in memory as a model's file."""
    shapes = {key: tuple(tensor.shape) for key, tensor in artifact.tensors.items()}
    stacks = _as_sequences(artifact.header.layers)
    return ModelFile(path, stacks, artifact.weight_plans(), shapes, artifact.tensors.__getitem__, artifact)


def of_checkpoint(checkpoint: Checkpoint, path: Path) -> ModelFile:
    """See a dense checkpoint as a model's file."""
    return ModelFile(path, _as_sequences(checkpoint.layers), {}, checkpoint.shapes, checkpoint.tensor)


def _as_sequences(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Stacks that run over whole sequences, time first: cells too, and without dropout."""
    return by_stack(replace(one, cell=False, batch_first=False, dropout=0.0) for one in layers)
