"""One budget for the whole file: what is exact is folded, then sizes and roundings that do the least damage.

Structures are tried one by one (every unit, fewer units); in each, every tensor goes down the ladder of storage
levels until the file is small enough. What is kept does the least damage at the outputs, on inputs held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from trcompress.artifact.describe import dense_shapes
from trcompress.artifact.file import Artifact
from trcompress.artifact.report import Report, make_report
from trcompress.artifact.save import save, to_artifact
from trcompress.artifact.storage import STORAGE, Stored
from trcompress.artifact.write import file_bytes
from trcompress.decomposition.weight import CompressedWeight
from trcompress.errors import UsageError, one_of
from trcompress.layers.swaps import swap_
from trcompress.model.header import PassRecord, Step
from trcompress.network.batches import Forward, default_forward
from trcompress.network.outputs import Outputs, Select
from trcompress.passes.budget_search import BudgetSearch, WholeSize
from trcompress.passes.checks import check_passes
from trcompress.passes.damage import Damage, Inputs, divide_batches
from trcompress.passes.fold import fold_embeddings
from trcompress.passes.ring_errors import LONG_FIGURE, carry_out, unmeasured
from trcompress.passes.structures import Structures
from trcompress.passes.walk import HEAD, Row, Rung
from trcompress.util.arguments import changed_from_default
from trcompress.util.progress import Progress
from trcompress.util.text import aligned
from trcompress.util.threads import same_threads
from trcompress.version import __version__

PASSES = ("fold", "rings", "units", "rounding")
"""What may be done to a network."""

STORED_AS = ("float16", "int8", "int4")
"""How tensors may be stored unless the user says otherwise."""


@dataclass(frozen=True, repr=False)
class Whole:
    """A network made to fit a file of so many bytes.

    Args:
        model: the network; the one given, changed in place, unless it was only planned.
        structure: which matrices have other sizes.
        rungs: the ladder that was walked.
        rows: what becomes of every tensor.
        passes: records for the file.
        stored: tensors that the file holds in few bits, by name.
        original: shapes that tensors had before they were resized, by name.
        bytes_before: of a file of the network as it was.
        nbytes: of the file as it would be written.
        damage: at the outputs, on inputs held out.
        measure: what that figure is, in words.
        packed: whether the file is entropy-coded.
        reached: whether the file is as small as asked.
        rings: matrices that were replaced, by name: their errors as the file holds them.
        notes: what was decided, in words.
    """

    model: nn.Module
    structure: str
    rungs: tuple[Rung, ...]
    rows: tuple[Row, ...]
    passes: tuple[PassRecord, ...]
    stored: Mapping[str, Stored]
    original: Mapping[str, tuple[int, ...]]
    bytes_before: int
    nbytes: int
    damage: float
    measure: str
    packed: bool
    reached: bool
    rings: Mapping[str, CompressedWeight] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def require_reached(self) -> None:
        """Refuse a network that no allowed pass made small enough.

        Raises:
            UsageError: the file is larger than was asked.
        """
        if not self.reached:
            raise UsageError(
                f"the budget cannot be met: {self.nbytes:,} bytes is the least that the allowed passes reach; "
                "allow a larger `target_size`, more `passes`, or entropy coding with `pack=True`"
            )

    def save(self, path: str | Path, *, overwrite: bool = False, sidecar: bool = False) -> Path:
        """Write the network as one artifact; see `trcompress.save`."""
        return save(self.model, path, overwrite=overwrite, packed=self.packed, sidecar=sidecar, **self._told())

    def report(self) -> Report:
        """Report on the network as it is now; see `trcompress.report`."""
        return make_report(to_artifact(self.model, **self._told()))

    def __repr__(self) -> str:
        size = f"{self.bytes_before:,} -> {self.nbytes:,} bytes ({self.bytes_before / self.nbytes:.2f}x)"
        size += "" if self.reached else ", more than asked"
        head = f"{size}, {self.structure}; {self.measure}, held out: {self.damage:.4g}"
        return "\n".join([head, *aligned([HEAD, *(row.cells for row in self.rows)])])

    def settled(self, target_bytes: int, artifact: Artifact | None = None) -> Whole:
        """Return the same with the bytes that the file will have, in place of what was planned.

        Args:
            target_bytes: that it may have.
            artifact: what is written; what `save` writes by default.
        """
        file = artifact or to_artifact(self.model, **self._told())
        file.packed = self.packed
        nbytes = file_bytes(file)
        rungs = (*self.rungs[:-1], replace(self.rungs[-1], nbytes=nbytes))
        return replace(self, nbytes=nbytes, rungs=rungs, reached=nbytes <= target_bytes)

    def _told(self) -> dict[str, Any]:
        """What the file says of itself."""
        told = {"stored": self.stored, "passes": self.passes, "original": self.original, "found": self.rings}
        return told | {"lineage": (self.step(),)}

    def step(self, command: str = "", seed: int = 0) -> Step:
        """Describe what was done, for the lineage."""
        return _step(self.structure, self.measure, self.damage, command, seed)


def whole_(
    model: nn.Module,
    calibrate: Iterable[Any],
    *,
    target_bytes: int,
    held_out: Iterable[Any] | None = None,
    forward: Forward = default_forward,
    outputs: str | Outputs | Select | None = None,
    passes: Sequence[str] = PASSES,
    storage: Sequence[str] = STORED_AS,
    packed: bool = False,
    matrices: Sequence[str] = ("ih",),
    units: int | None = None,
    rank: int | None = None,
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
        held_out: batches to measure damage on; every fourth of `calibrate` by default.
        forward: `forward(model, batch)`.
        outputs: what is compared: "scores", "values", "states" or a function that selects it.
        passes: which of `PASSES` are allowed.
        storage: which of `trcompress.artifact.storage.STORAGE` are allowed.
        packed: entropy-code integers; coarser integers are then tried as well.
        matrices: which matrices of recurrent layers may be of lower rank: "ih", "hh".
        units: hidden units that every recurrent layer with more keeps; by default several numbers are tried.
        rank: that these matrices get, where it saves values; where a ring loses units, its output cores may have as
            many values as two factors of this rank. By default several are tried.
        trained: the network will be trained afterwards: it may lose units first, and is rounded to eight bits.
        in_place: change the model; False plans on a copy.
        file_size: tells the bytes of a file; that of `trcompress.save` by default.
        seed: of anything random.
        progress: called with (what, fraction done).

    Returns:
        What was done, with `save`. Where the target cannot be reached, what comes nearest: `reached` is False.

    Raises:
        UsageError: an unknown pass or storage, a target below one byte, or an option of a pass that is not allowed.
        InputFileError: the data is empty, or not what the network takes.
    """
    if target_bytes < 1:
        raise UsageError(f"target_bytes must be positive: got {target_bytes:,}")
    check_passes(changed_from_default(whole_, locals()), passes)
    passes = [one_of("passes", one, PASSES) for one in passes]
    storage = [one_of("storage", one, STORAGE) for one in storage if "rounding" in passes]
    matrices = [one_of("matrices", one, ("ih", "hh")) for one in matrices]
    with same_threads(one.numel() for one in model.state_dict().values()):
        work = model if in_place else deepcopy(model)
        shapes = dense_shapes(work)
        size = file_size or (lambda now, stored, made: _saved_bytes(now, stored, made, packed, shapes))
        inputs = divide_batches(calibrate, held_out)
        damage = Damage(work, inputs.held_out, forward, outputs)
        before = file_size(work, {}, ()) if file_size else file_bytes(to_artifact(work))
        records: list[PassRecord] = []
        work = _fold(work, inputs, forward, records) if "fold" in passes else work
        search = BudgetSearch(
            work, inputs, damage, forward, target_bytes, size, tuple(records), packed, storage, progress
        )
        structures = Structures(work, passes, matrices, inputs, forward, packed=packed, units=units, rank=rank)
        structure, walk = search.trained(structures) if trained else search.untrained(structures)
        work, rings = carry_out(work, structure, walk)
        records += [*structure.records, *_rounded(walk.rows)]
        found = Whole(
            work,
            structure.name,
            walk.rungs,
            walk.rows,
            tuple(records),
            walk.stored,
            resized_shapes(shapes, work),
            before,
            walk.nbytes,
            walk.damage,
            damage.measure,
            packed,
            walk.reached,
            rings,
            (*inputs.notes, *structures.notes),
        )
        return found if file_size else found.settled(target_bytes)


def _fold(model: nn.Module, inputs: Inputs, forward: Forward, records: list[PassRecord]) -> nn.Module:
    """Fold embeddings."""
    swaps = fold_embeddings(model, inputs.held_out[:1], forward)
    for name, module in swaps.items():
        records.append(_folded(name, model.get_submodule(name), module))
    return swap_(model, swaps)


def _folded(name: str, before: Any, after: Any) -> PassRecord:
    widths = [getattr(one, "embedding_dim", getattr(one, "input_size", None)) for one in (before, after)]
    return PassRecord(kind="fold", name=name, before=f"{widths[0]} wide", after=f"{widths[1]} wide", damage=0.0)


def _rounded(rows: Sequence[Row]) -> list[PassRecord]:
    return [
        PassRecord(kind="rounding", name=row.name, before="as it is", after=row.level, damage=row.damage)
        for row in rows
        if row.level != "as it is"
    ]


def resized_shapes(before: Mapping[str, tuple[int, ...]], model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a network no longer has in that size, by name."""
    now = dense_shapes(model)
    return {name: shape for name, shape in before.items() if now.get(name) != shape}


def _saved_bytes(
    model: nn.Module,
    stored: Mapping[str, Stored],
    records: Sequence[PassRecord],
    packed: bool,
    shapes: Mapping[str, tuple[int, ...]],
) -> int:
    longest = "0.1875 of the units, 0.125 of the break-even rank"
    step = _step(longest, "relative squared distance of the hidden states", LONG_FIGURE, "", 0)
    told: dict[str, Any] = {"lineage": (step,), "original": resized_shapes(shapes, model)}
    told["found"] = unmeasured(model)
    artifact = to_artifact(model, stored=stored, passes=tuple(records), **told)
    artifact.packed = packed
    return file_bytes(artifact)


def _step(structure: str, measure: str, damage: float, command: str, seed: int) -> Step:
    facts = {"damage": damage, "measure": measure, "structure": structure}
    return Step(verb="compress", command=command, seed=seed, version=__version__, settings=facts)
