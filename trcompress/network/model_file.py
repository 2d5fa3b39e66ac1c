"""A model's file as the trainer sees it, dense or compressed: layers, structures, and tensors on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.checkpoint import (
    Checkpoint,
    foreign_tensors,
    is_artifact,
    is_recurrent_name,
    read_checkpoint,
    refuse_foreign,
    without_ignored,
)
from trcompress.checkpoint.opened import Opened, as_opened, refuse_changed
from trcompress.errors import InputFileError
from trcompress.layers.stacks import build_stack, load_stack
from trcompress.model.layer import Layer, by_stack
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.arguments import refuse_unused

OF_DENSE_FILES = ("kind", "skip_objects", "drop", "allow_nonfinite")
"""Ways to read a dense checkpoint that mean nothing of an artifact."""


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
        unknown: stack -> tensors in a layer's own module that its kind cannot use.
        beside: keys that lay in another dict than the model's own.
        shared: groups of keys that are one tensor.
        notes: what was assumed of the layers because the file does not tell.
        opened: what the files were like before they were read.
    """

    path: Path
    stacks: Mapping[str, Sequence[Layer]]
    plans: Mapping[str, WeightPlan]
    shapes: Mapping[str, tuple[int, ...]]
    tensor: Callable[[str], Tensor]
    artifact: Artifact | None = None
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()
    shared: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    opened: Opened = field(default_factory=dict)

    def refuse_changed(self, *, replaced: bool = True) -> None:
        """Refuse to go on with a file that was written to since it was opened; see `opened.refuse_changed`."""
        refuse_changed(self.opened, replaced=replaced)

    @property
    def main_stacks(self) -> list[str]:
        """Names of the stacks of the model's own dict; of all, where there is no other."""
        own = [name for name, layers in self.stacks.items() if layers[0].keys["weight_ih"] not in self.beside]
        return own or list(self.stacks)

    def refuse_unknown(self) -> None:
        """Stop before a network is run that is not the one that its shapes suggest.

        Raises:
            InputFileError: names the tensors that no torch.nn layer uses, and the ways out.
        """
        refuse_foreign(self.path, {name: layers[0].kind for name, layers in self.stacks.items()}, self.unknown)
        odd = [key for key in self.shapes if is_recurrent_name(key) and key not in self.recurrent_keys]
        if odd:
            raise InputFileError(
                f"{self.path} holds {', '.join(odd[:5])}, named as a recurrent layer's and of the sizes of none in "
                "torch.nn: such a network is run by its own code, `model='package.module:factory'`"
            )
        for layers in self.stacks.values():
            for layer in layers:
                if "weight_hh" not in layer.keys:
                    raise InputFileError(
                        f"{self.path}: {layer.keys['weight_ih']!r} has no weight_hh beside it, so it is no whole "
                        f"{layer.kind.upper()} layer; save the model's whole state_dict"
                    )

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


def open_model(path: str | Path, *, ignore_unknown: Sequence[str] = (), **reading: Any) -> ModelFile:
    """Open an artifact or a dense checkpoint.

    Args:
        path: the file.
        ignore_unknown: keys or globs of tensors in a layer's own module that take no part in its steps.
        **reading: how to read a dense checkpoint, `kind` and `skip_objects`; see `read_checkpoint`.

    Raises:
        InputFileError: neither, or damaged; see `read_artifact` and `read_checkpoint`.
    """
    path = Path(path)
    if is_artifact(path):
        opened = as_opened([path])
        return replace(of_artifact(read_artifact(path), path, ignore_unknown), opened=opened)
    return of_checkpoint(read_checkpoint(path, ignore_unknown=ignore_unknown, **reading), path)


def check_reading(reading: Mapping[str, Any], *files: object) -> None:
    """Refuse what tells how a dense checkpoint is read, where none is.

    Args:
        reading: arguments of `open_model`.
        files: what a call opens with them: paths, other objects or None.

    Raises:
        UsageError: all of it is named.
    """
    if not any(isinstance(one, str | Path) and not is_artifact(one) for one in files):
        refuse_unused(
            [name for name, value in reading.items() if value],
            OF_DENSE_FILES,
            "where no dense checkpoint is read",
            "leave it out; an artifact says itself how its tensors are read",
        )


def of_artifact(artifact: Artifact, path: Path, ignore_unknown: Sequence[str] = ()) -> ModelFile:
    """See an artifact in memory as a model's file."""
    shapes = {key: tuple(tensor.shape) for key, tensor in artifact.tensors.items()}
    stacks = _as_sequences(artifact.header.layers)
    beside = artifact.beside
    found = foreign_tensors(artifact.header.layers, shapes, beside)
    unknown, _ = without_ignored(found, ignore_unknown, shapes)
    plans, tensor = artifact.weight_plans(), artifact.tensors.__getitem__
    return ModelFile(path, stacks, plans, shapes, tensor, artifact, unknown, beside, artifact.header.shared)


def of_checkpoint(checkpoint: Checkpoint, path: Path) -> ModelFile:
    """See a dense checkpoint as a model's file."""
    stacks = _as_sequences(checkpoint.layers)
    tensor, shapes = checkpoint.tensor, checkpoint.shapes
    seen = checkpoint.unknown, checkpoint.beside, checkpoint.shared, checkpoint.assumed
    return ModelFile(path, stacks, {}, shapes, tensor, None, *seen, opened=checkpoint.opened)


def _as_sequences(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Stacks that run over whole sequences, time first: cells too, and without dropout."""
    return by_stack(replace(one, cell=False, batch_first=False, dropout=0.0) for one in layers)
