"""One budget for a checkpoint or an artifact: the file becomes a live network, and that a smaller file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.artifact.changed import noted
from trcompress.artifact.file import Artifact
from trcompress.artifact.storage import Stored
from trcompress.artifact.write import file_bytes
from trcompress.checkpoint import read_checkpoint
from trcompress.checkpoint.opened import Opened, refuse_changed
from trcompress.decomposition.weight import CompressedWeight
from trcompress.layers import CoreWeight
from trcompress.model.header import READ, Header, PassRecord, Step, Weight
from trcompress.model.layer import Layer
from trcompress.model.weight_plan import WeightPlan
from trcompress.network.batches import Forward
from trcompress.network.model_file import ModelFile
from trcompress.network.outputs import Outputs, Select
from trcompress.passes.assemble import assemble, with_reading
from trcompress.passes.fit import budget_bytes
from trcompress.passes.ring_errors import core_weights, init_of, unmeasured
from trcompress.passes.whole import PASSES, Whole, whole_
from trcompress.version import __version__


@dataclass(frozen=True)
class RunnableFile:
    """A file's network, and inputs for it.

    Args:
        base: the file as an artifact in memory: every tensor, described.
        module: the network that it holds.
        keys: for each name in the module's state, the key in the file.
        batches: calibration inputs.
        forward: `forward(module, batch)`.
        outputs: what is compared.
        notes: what was decided, in words.
        held_out: inputs to measure damage on; some of `batches` by default.
        opened: what the file was like before it was read.
    """

    base: Artifact
    module: nn.Module
    keys: Mapping[str, str]
    batches: Sequence[Any]
    forward: Forward
    outputs: str | Outputs | Select | None
    notes: tuple[str, ...] = ()
    held_out: Sequence[Any] | None = None
    opened: Opened = field(default_factory=dict)

    def refuse_changed(self, written: Artifact) -> None:
        """Refuse what was `written` from a file that changed meanwhile: tensors are read when needed.

        Raises:
            InputFileError: it was changed, replaced or removed.
        """
        refuse_changed(self.opened)

    @property
    def tensor_bytes(self) -> int:
        """Of the dense model that the file came from, or of the file itself; tied tensors once."""
        if self.base.header.source is not None:
            return self.base.header.source.tensor_bytes
        tied = {key for group in self.base.header.shared for key in group[1:]}
        return sum(self.base.stored_bytes(key) for key in self.base.tensors if key not in tied)

    def target_bytes(self, size: int | str | None, ratio: float | None) -> int:
        """Return the bytes that a file may have; see `budget_bytes`."""
        return budget_bytes(self.tensor_bytes, size, ratio)

    @property
    def may_fold(self) -> bool:
        """Whether every embedding is a table of its own in the file: none of the data's, none tied to a head."""
        own = [name for name, one in self.module.named_modules() if isinstance(one, nn.Embedding)]
        keys = {self.keys.get(f"{name}.weight".lstrip(".")) for name in own}
        return None not in keys and not any(keys & set(group) for group in self.base.header.shared)

    def rebuilt(
        self,
        module: nn.Module,
        stored: Mapping[str, Stored],
        records: Sequence[PassRecord],
        step: Step,
        rings: Mapping[str, CompressedWeight] | None = None,
    ) -> Artifact:
        """Put a changed network in the place of the file's.

        Args:
            module: the network, with other sizes perhaps.
            stored: tensors in few bits, by their names in its state.
            records: of the passes, by names in the network.
            step: for the lineage.
            rings: errors of new rings, by their names in the network; None leaves room for them.
        """
        state = {
            self.key(name): value.detach()
            for name, value in module.state_dict().items()
            if name.partition(".core.")[0] in self._names
        }
        replaced = {self.key(name) for name in self.keys}
        tensors = {key: one for key, one in self.base.tensors.items() if key not in replaced}
        own = {key: self.base.tensors.get(key, value).dtype for key, value in state.items()}
        keys = {name: self.key(name) for name in stored}
        held = {
            keys[name]: replace(one, dtype=own[keys[name]]) for name, one in stored.items() if keys[name] in own
        }
        tensors |= {key: held[key].expand() if key in held else value.to(own[key]) for key, value in state.items()}
        kept = {key: one for key, one in self.base.stored.items() if key not in replaced}
        header = self._header(module, tensors, records, step)
        found = unmeasured(module) if rings is None else rings
        header = header.model_copy(update={"weights": self._measured(header.weights, found)})
        return Artifact(tensors, header, stored=kept | held)

    def _header(
        self, module: nn.Module, tensors: Mapping[str, Tensor], records: Sequence[PassRecord], step: Step
    ) -> Header:
        before = self.base.header
        ours = {self._ring_key(name): one for name, one in core_weights(module).items()}
        there = [one for one in before.weights if f"{one.name}.core.0" in tensors]  # others are dense now
        kept = {one.name: one for one in there if one.name not in ours or _same(one, ours[one.name])}
        weights = [
            *noted(tuple(kept.values()), self.base.tensors, tensors),
            *(_described(key, one) for key, one in ours.items() if key not in kept),
        ]
        changes = {
            "layers": tuple(self._layer(layer, module) for layer in before.layers),
            "weights": tuple(weights),
            "shared": tuple(group for group in before.shared if _equal(group, tensors)),
            "lineage": with_reading(before.lineage, step),
            "passes": (*before.passes, *(self.record(one) for one in records)),
        }
        after = before.model_copy(update=changes)
        original = {**self._resized(tensors, after.weight_plans()), **before.original}
        return after.model_copy(update={"original": original})

    def _ring_key(self, name: str) -> str:
        return self.key(f"{name}.core.0").removesuffix(".core.0")

    def _measured(self, weights: Sequence[Weight], found: Mapping[str, CompressedWeight]) -> tuple[Weight, ...]:
        """Add the errors of new rings; those that were in the file keep what was found when they were made."""
        told = {self._ring_key(name): {"error": one.error, "bound": one.bound} for name, one in found.items()}
        before = {one.name for one in self.base.header.weights}
        return tuple(
            one if one.name in before else one.model_copy(update=told.get(one.name, {})) for one in weights
        )

    def _resized(
        self, tensors: Mapping[str, Tensor], plans: Mapping[str, WeightPlan]
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not there any more in that size; of cores, of what they stand for."""
        before = _dense_shapes(self.base.tensors, self.base.weight_plans())
        now = _dense_shapes(tensors, plans)
        return {key: shape for key, shape in before.items() if now.get(key) != shape}

    def _layer(self, layer: Layer, module: nn.Module) -> Layer:
        """A layer with the sizes that its module has now."""
        names = {key: name for name, key in self.keys.items()}
        name = names.get(layer.keys["weight_ih"]) or names.get(f"{layer.keys['weight_ih']}.core.0")
        if name is None:
            return layer
        owner: Any = module.get_submodule(name.partition(".core.")[0].rpartition(".")[0])
        fed = owner.input_size
        if layer.index:
            fed = (2 if owner.bidirectional else 1) * (owner.proj_size or owner.hidden_size)
        return replace(layer, input_size=fed, hidden_size=owner.hidden_size)

    @property
    def _names(self) -> set[str]:
        """Names in the network that the file has tensors for, those of rings without their cores."""
        return {name.partition(".core.")[0] for name in self.keys}

    def key(self, name: str) -> str:
        """The key in the file of a name in a network that was changed since."""
        if name in self.keys:
            return self.keys[name]
        base, dot, rest = name.partition(".core.")
        whole = self.keys.get(base) or self.keys.get(f"{base}.core.0", base).removesuffix(".core.0")
        return whole + dot + rest

    def record(self, record: PassRecord) -> PassRecord:
        """The same with the file's names: of a tensor its key, of a module the part of its keys before the dot."""
        if record.name in self.keys or ".core." in record.name:
            return record.model_copy(update={"name": self.key(record.name)})
        prefix = f"{record.name}." if record.name else ""
        inside = [key for name, key in self.keys.items() if name.startswith(prefix)]
        name = (inside[0].partition(".core.")[0].rpartition(".")[0] or inside[0]) if inside else record.name
        return record.model_copy(update={"name": name})


def base_artifact(file: ModelFile, reading: Mapping[str, Any] | None = None) -> Artifact:
    """See a checkpoint as an artifact in which nothing is compressed yet; an artifact as it is.

    Args:
        file: either.
        reading: how to read a checkpoint; see `read_checkpoint`.

    Raises:
        InputFileError: the checkpoint is not understood, or a tensor cannot be kept or holds NaN or Inf.
    """
    if file.artifact is not None:
        return file.artifact
    checkpoint = read_checkpoint(file.path, **dict(reading or {}))
    checkpoint.check_compressible()
    return assemble(checkpoint, (), Step(verb=READ, command="", version=__version__))


def compress_file(
    runnable: RunnableFile,
    *,
    target_bytes: int,
    command: str = "",
    seed: int = 0,
    packed: bool = False,
    **settings: Any,
) -> tuple[Artifact, Whole]:
    """Make a file's network fit a file of so many bytes.

    Args:
        runnable: the file, its network and its inputs; the network is changed in place.
        target_bytes: of the whole file.
        command: how the user asked for this, kept in the lineage.
        seed: of anything random.
        packed: entropy-code what is stored in few bits.
        settings: of `whole_`: `passes`, `storage`, `matrices`, `units`, `rank`, `trained`, `progress`.

    Returns:
        The artifact, not yet written, and what was done.
    """

    def step(facts: Mapping[str, Any]) -> Step:
        return Step(verb="compress", command=command, seed=seed, version=__version__, settings=dict(facts))

    longest = {"damage": 1.2345678901234567e-05, "measure": "m" * 48, "structure": "s" * 52}

    def size(module: nn.Module, stored: Mapping[str, Stored], records: Sequence[PassRecord]) -> int:
        artifact = runnable.rebuilt(module, stored, records, step(longest))
        artifact.packed = packed
        return file_bytes(artifact)

    if not runnable.may_fold:
        settings["passes"] = [one for one in settings.get("passes", PASSES) if one != "fold"]
    found = whole_(
        runnable.module,
        runnable.batches,
        held_out=runnable.held_out,
        target_bytes=target_bytes,
        forward=runnable.forward,
        outputs=runnable.outputs,
        packed=packed,
        file_size=size,
        seed=seed,
        **settings,
    )
    facts = {"damage": found.damage, "measure": found.measure, "structure": found.structure}
    artifact = runnable.rebuilt(found.model, found.stored, found.passes, step(facts), found.rings)
    found = found.settled(target_bytes, artifact)
    return artifact, replace(
        found,
        notes=(*runnable.notes, *found.notes),
        bytes_before=runnable.tensor_bytes,
        rows=tuple(replace(one, name=runnable.key(one.name)) for one in found.rows),
        rungs=tuple(replace(one, what=_translated(one.what, runnable)) for one in found.rungs),
        passes=tuple(runnable.record(one) for one in found.passes),
    )


def _translated(what: str, runnable: RunnableFile) -> str:
    name, arrow, level = what.partition(" -> ")
    first, others, count = name.partition(" with ")
    return runnable.key(first) + others + count + arrow + level


def _dense_shapes(tensors: Mapping[str, Tensor], plans: Mapping[str, WeightPlan]) -> dict[str, tuple[int, ...]]:
    cores = {f"{key}.core.{k}" for key, plan in plans.items() for k in range(len(plan.core_shapes))}
    shapes = {key: tuple(one.shape) for key, one in tensors.items() if key not in cores}
    return shapes | {key: (one.matrix.rows, one.matrix.columns) for key, one in plans.items()}


def _same(weight: Weight, cores: CoreWeight) -> bool:
    return weight.structure == cores.plan.structure and weight.per_gate == cores.plan.per_gate


def _described(key: str, cores: CoreWeight) -> Weight:
    plan = replace(cores.plan, matrix=replace(cores.plan.matrix, key=key))
    return Weight.of(plan, init=init_of(plan), dtype=str(cores.dtype).removeprefix("torch."))


def _equal(group: Sequence[str], tensors: Mapping[str, Tensor]) -> bool:
    """Whether tied tensors still are the same."""
    found = [tensors.get(key) for key in group]
    first = found[0]
    return first is not None and all(one is not None and torch.equal(first, one) for one in found[1:])
