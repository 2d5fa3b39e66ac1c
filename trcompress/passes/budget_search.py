"""Search the structure and the roundings of a network that fit a file of so many bytes with the least damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from trcompress.artifact.storage import Stored
from trcompress.layers.swaps import swapped
from trcompress.model.header import PassRecord
from trcompress.network.batches import Forward
from trcompress.passes.alike import least_bytes
from trcompress.passes.damage import Damage, Inputs
from trcompress.passes.levels import STEPS
from trcompress.passes.matrix_moments import matrix_moments
from trcompress.passes.ring_errors import LONG_FIGURE
from trcompress.passes.structures import Structure, Structures
from trcompress.passes.walk import Walk, walk_down
from trcompress.util.progress import Progress, part_of

WholeSize = Callable[[nn.Module, Mapping[str, Stored], Sequence[PassRecord]], int]
"""Bytes of the file that holds a network, some of its tensors in few bits, with these records."""

TRAINED_STEP = 0.3
"""Coarsest steps of entropy-coded integers that training begins with, some four bits. Beside a structure that
already changes the outputs coarser ones look free, but training hardly gets on with them."""

HARMLESS = 1e-3
"""Damage below which no other structure is looked for."""


@dataclass
class BudgetSearch:
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

    def untrained(self, structures: Structures) -> tuple[Structure, Walk]:
        """The structure whose file is small enough with the least damage; the smallest where none is."""
        found: list[tuple[Structure, Walk]] = []
        too_large: list[Structure] = []
        for structure in structures.untrained():
            if self._too_large(structure, self.kinds):
                too_large.append(structure)
                continue
            found.append((structure, self._walk(structure, self.kinds, self.progress)))
            done = _first_reached(found)
            if done is not None and (done.damage < HARMLESS or structure.units < 0.5):
                break
        if _first_reached(found) is None:
            found += [(one, self._walk(one, self.kinds, self.progress)) for one in too_large]
        return min(found, key=_preference)

    def trained(self, structures: Structures) -> tuple[Structure, Walk]:
        """At eight bits, the structure of each rank with the most units that fit; of these, the least damage."""
        eight = [kind for kind in self.kinds if kind != "int4" or "int8" not in self.kinds]
        fitting: dict[float | None, tuple[Structure, Walk]] = {}
        smallest: Structure = Structure()
        for structure in structures.grid():
            smallest = structure
            if structure.rank in fitting or self._too_large(structure, eight):
                continue
            walk = self._walk(structure, eight, self.progress, TRAINED_STEP)
            if walk.reached:
                fitting[structure.rank] = structure, walk
        if not fitting:
            return smallest, self._walk(smallest, self.kinds, self.progress)
        return min(fitting.values(), key=_preference)

    def _too_large(self, structure: Structure, kinds: Sequence[str]) -> bool:
        """Whether a structure is above the target even at its coarsest, which needs no run of the network."""
        with swapped(self.model, structure.swaps) as changed:
            return not self.packed and least_bytes(changed, kinds) > self.target_bytes

    def _walk(
        self, structure: Structure, kinds: Sequence[str], progress: Progress | None, coarsest: float = STEPS[-1]
    ) -> Walk:
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
                kinds=kinds,
                coarsest=coarsest,
                name=structure.name if structure.records else "what is exact",
                progress=part_of(progress, structure.name, 0, 1),
            )


def _preference(found: tuple[Structure, Walk]) -> tuple[bool, float]:
    """Small enough first, then the least damage, or the fewest bytes."""
    walk = found[1]
    return not walk.reached, walk.damage if walk.reached else walk.nbytes


def _first_reached(found: Sequence[tuple[Structure, Walk]]) -> Walk | None:
    return next((walk for _, walk in found if walk.reached), None)


def _rounding_records(stored: Mapping[str, Stored]) -> tuple[PassRecord, ...]:
    """As long as the records that will be written, at least."""
    after = "int8 in steps of 0.75"
    return tuple(
        PassRecord(kind="rounding", name=name, before="as it is", after=after, damage=LONG_FIGURE)
        for name in stored
    )
