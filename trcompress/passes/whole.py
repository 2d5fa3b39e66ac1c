"""One budget for the whole file: what is exact is folded, then sizes and roundings that do the least damage.

Structures are tried one by one (every unit, fewer units); in each, every tensor goes down the ladder of storage
levels until the file is small enough. What is kept does the least damage at the outputs, on inputs held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from trcompress.artifact.save import save, to_artifact
from trcompress.artifact.storage import STORAGE, Stored
from trcompress.artifact.write import file_bytes
from trcompress.errors import UsageError, one_of
from trcompress.layers.swaps import swap_, swapped
from trcompress.model.header import PassRecord, Step
from trcompress.network.batches import Forward, default_forward
from trcompress.network.outputs import Select
from trcompress.passes.damage import Damage, Inputs, divide
from trcompress.passes.fold import fold_embeddings, merge_biases
from trcompress.passes.matrix_moments import matrix_moments
from trcompress.passes.structures import Structure, structures_of
from trcompress.passes.walk import Row, Rung, Walk, apply_, walk_down
from trcompress.util.progress import Progress, part_of
from trcompress.version import __version__

WholeSize = Callable[[nn.Module, Mapping[str, Stored], Sequence[PassRecord]], int]
"""Bytes of the file that holds a network, some of its tensors in few bits, with these records."""

PASSES = ("fold", "rings", "units", "rounding")
"""What may be done to a network."""

_LONG = 1.2345678901234567e-05

HARMLESS = 1e-3
"""Damage below which no other structure is looked for."""


@dataclass(frozen=True)
class Whole:
    """A network made to fit a file of so many bytes.

    Args:
        model: the network; the one given, changed in place, unless it was only planned.
        structure: which matrices have other sizes.
        rungs: the ladder that was walked.
        rows: what becomes of every tensor.
        passes: records for the file.
        stored: tensors that the file holds in few bits, by name.
        bytes_before: of a file of the network as it was.
        nbytes: of the file as it would be written.
        damage: at the outputs, on inputs held out.
        measure: what that figure is, in words.
        packed: whether the file is entropy-coded.
        reached: whether the file is as small as asked.
        notes: what was decided, in words.
    """

    model: nn.Module
    structure: str
    rungs: tuple[Rung, ...]
    rows: tuple[Row, ...]
    passes: tuple[PassRecord, ...]
    stored: Mapping[str, Stored]
    bytes_before: int
    nbytes: int
    damage: float
    measure: str
    packed: bool
    reached: bool
    notes: tuple[str, ...] = ()

    @property
    def file_ratio(self) -> float:
        """Bytes of the whole file, before over after."""
        return self.bytes_before / self.nbytes

    def save(self, path: str | Path, *, overwrite: bool = False, sidecar: bool = False) -> Path:
        """Write the network as one artifact; see `trcompress.save`."""
        return save(
            self.model,
            path,
            overwrite=overwrite,
            lineage=(self.step(),),
            stored=self.stored,
            passes=self.passes,
            packed=self.packed,
            sidecar=sidecar,
        )

    def step(self, command: str = "", seed: int = 0) -> Step:
        """Describe what was done, for the lineage."""
        return _step(self.structure, self.measure, self.damage, command, seed)


def whole_(
    model: nn.Module,
    calibrate: Iterable[Any],
    *,
    target_bytes: int,
    forward: Forward = default_forward,
    outputs: str | Select | None = None,
    passes: Sequence[str] = PASSES,
    storage: Sequence[str] = ("float16", "int8", "int4"),
    packed: bool = False,
    trained: bool = False,
    in_place: bool = True,
    file_size: WholeSize | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Whole:
    """Make a network fit a file of so many bytes, with the least damage to what it gives.

    Args:
        model: any module; changed in place unless `in_place` is False.
        calibrate: batches of its inputs; labels are not looked at.
        target_bytes: of the whole file.
        forward: `forward(model, batch)`.
        outputs: what is compared: "scores", "values", "states" or a function that selects it.
        passes: which of `PASSES` are allowed.
        storage: which of `trcompress.artifact.storage.STORAGE` are allowed.
        packed: entropy-code integers; coarser integers are then tried as well.
        trained: the network will be trained afterwards: it may lose units first, and is rounded to eight bits.
        in_place: change the model; False plans on a copy.
        file_size: tells the bytes of a file; that of `trcompress.save` by default.
        seed: of anything random.
        progress: called with (what, fraction done).

    Returns:
        What was done, with `save`. Where the target cannot be reached, what comes nearest: `reached` is False.

    Raises:
        UsageError: an unknown pass or storage, or a target below one byte.
        InputFileError: the data is empty, or not what the network takes.
    """
    if target_bytes < 1:
        raise UsageError(f"target_bytes must be positive: got {target_bytes:,}")
    passes = [one_of("passes", one, PASSES) for one in passes]
    storage = [one_of("storage", one, STORAGE) for one in storage]
    work = model if in_place else deepcopy(model)
    size = file_size or (lambda network, stored, records: _saved_bytes(network, stored, records, packed))
    inputs = divide(calibrate)
    damage = Damage(work, inputs.held_out, forward, outputs)
    before = size(work, {}, ())
    records: list[PassRecord] = []
    if "fold" in passes:
        work = _fold(work, inputs, forward, packed, records)
    kinds = storage if "rounding" in passes else ()
    search = _Search(work, inputs, damage, forward, target_bytes, size, tuple(records), packed, kinds, progress)
    structure, walk = search.best(structures_of(work, passes, inputs, forward, trained=trained), trained)
    work = swap_(work, structure.swaps)
    apply_(work, walk)
    records += structure.records
    records += [
        PassRecord(kind="rounding", name=row.name, before="as it is", after=row.level, damage=row.damage)
        for row in walk.rows
        if row.level != "as it is"
    ]
    return Whole(
        work,
        structure.name,
        walk.rungs,
        walk.rows,
        tuple(records),
        walk.stored,
        before,
        walk.nbytes,
        walk.damage,
        damage.measure,
        packed,
        walk.reached,
        inputs.notes,
    )


@dataclass
class _Search:
    """Walks down the ladder in one structure after another."""

    model: nn.Module
    inputs: Inputs
    damage: Damage
    forward: Forward
    target_bytes: int
    size: WholeSize
    records: tuple[PassRecord, ...]
    packed: bool
    kinds: Sequence[str]
    progress: Progress | None

    def best(self, structures: Sequence[Structure], trained: bool) -> tuple[Structure, Walk]:
        """The structure whose file is small enough with the least damage; the smallest where none is."""
        found: list[tuple[Structure, Walk]] = []
        for number, structure in enumerate(structures):
            walk = self._walk(structure, part_of(self.progress, structure.name, number, len(structures)))
            found.append((structure, walk))
            if walk.reached and (trained or walk.damage < HARMLESS):
                break
        return min(found, key=lambda one: (not one[1].reached, one[1].damage if one[1].reached else one[1].nbytes))

    def _walk(self, structure: Structure, progress: Progress | None) -> Walk:
        made = (*self.records, *structure.records)

        def size(network: nn.Module, stored: Mapping[str, Stored]) -> int:
            return self.size(network, stored, (*made, *_rounding_records(stored)))

        with swapped(self.model, structure.swaps) as changed:
            seen = matrix_moments(changed, self.inputs.fitted, self.forward)
            return walk_down(
                changed,
                seen,
                self.damage,
                self.target_bytes,
                size,
                packed=self.packed,
                kinds=structure.kinds or self.kinds,
                progress=progress,
            )


def _fold(model: nn.Module, inputs: Inputs, forward: Forward, packed: bool, records: list[PassRecord]) -> nn.Module:
    """Fold embeddings, and biases where zeros take no bytes."""
    swaps = dict(fold_embeddings(model, inputs.held_out[:1], forward))
    for name, module in swaps.items():
        records.append(_folded(name, model.get_submodule(name), module))
    if packed:
        for name, module in model.named_modules():
            if type(module) in (nn.LSTM, nn.RNN) and module.bias:
                swaps[name] = merge_biases(swaps.get(name, module))
    return swap_(model, swaps)


def _folded(name: str, before: Any, after: Any) -> PassRecord:
    widths = [getattr(one, "embedding_dim", getattr(one, "input_size", None)) for one in (before, after)]
    return PassRecord(kind="fold", name=name, before=f"{widths[0]} wide", after=f"{widths[1]} wide", damage=0.0)


def _rounding_records(stored: Mapping[str, Stored]) -> tuple[PassRecord, ...]:
    """As long as the records that will be written, at least."""
    after = "int8 in steps of 0.75"
    return tuple(
        PassRecord(kind="rounding", name=name, before="as it is", after=after, damage=_LONG) for name in stored
    )


def _saved_bytes(
    model: nn.Module, stored: Mapping[str, Stored], records: Sequence[PassRecord], packed: bool
) -> int:
    step = _step("every unit and more", "relative squared distance of the hidden states", _LONG, "", 0)
    artifact = to_artifact(model, stored=stored, passes=tuple(records), lineage=(step,) if records else ())
    artifact.packed = packed
    return file_bytes(artifact)


def _step(structure: str, measure: str, damage: float, command: str, seed: int) -> Step:
    facts = {"damage": damage, "measure": measure, "structure": structure}
    return Step(verb="compress", command=command, seed=seed, version=__version__, settings=facts)
