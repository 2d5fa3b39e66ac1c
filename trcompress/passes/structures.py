"""Other sizes that a network may be given before it is rounded: matrices of lower rank, fewer hidden units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from trcompress.errors import UsageError
from trcompress.layers import CoreWeight, is_plain_stack, is_recurrent, recurrent_kind
from trcompress.layers.stack import RingStack
from trcompress.layers.swaps import swapped
from trcompress.model.header import PassRecord
from trcompress.network.batches import Forward
from trcompress.passes.damage import Inputs
from trcompress.passes.fold import merge_biases
from trcompress.passes.matrix_moments import matrix_moments
from trcompress.passes.readers import readers_of
from trcompress.passes.rings import ring_swaps
from trcompress.passes.saliency import Saliency, saliency
from trcompress.passes.units import fewer_units

UNIT_SHARES = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)
"""Shares of the hidden units that are kept."""

MOST_TRIED = 32
"""Recurrent modules up to which fewer units are tried unasked: runs of the whole network find what reads each."""

RANK_SHARES = (0.5, 0.25, 0.125)
"""Ranks that are tried, as shares of the rank at which two factors take as many values as the matrix."""


KEPT = (
    f"every layer keeps its units: with more than {MOST_TRIED} recurrent layers fewer are tried only where `units` "
    "says how many"
)


@dataclass(frozen=True)
class Structure:
    """Sizes of a network.

    Args:
        units: share of the hidden units that stay, or their number where that was asked for.
        rank: share of the break-even rank, or the rank that was asked for, or None where matrices stay whole.
        swaps: the modules that differ, by name.
        records: of the passes, for the file.
    """

    units: float = 1.0
    rank: float | None = None
    swaps: Mapping[str, nn.Module] = field(default_factory=dict)
    records: tuple[PassRecord, ...] = ()

    @property
    def name(self) -> str:
        """In words."""
        kept = f"{self.units} units" if isinstance(self.units, int) else f"{self.units:.4g} of the units"
        kept = "every unit" if self.units == 1.0 and not isinstance(self.units, int) else kept
        if self.rank is None:
            return kept
        rank = f"rank {self.rank}" if isinstance(self.rank, int) else f"{self.rank:.4g} of the break-even rank"
        return f"{kept}, {rank}"


class Structures:
    """Builds structures of one network.

    Args:
        model: the network.
        passes: "units" and "rings" where they are allowed.
        roles: matrices that may be rings: "ih", "hh".
        inputs: to rank units and to fit on.
        forward: `forward(model, batch)`.
        packed: the file will be entropy-coded: biases that are summed are merged, for zeros take no bytes then.
        units: hidden units that every layer keeps; several numbers are tried by default.
        rank: that matrices get, and by which the output side of a ring that loses units may have more values than
            before; several are tried by default.

    Raises:
        UsageError: `units` or `rank` below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        passes: Sequence[str],
        roles: Sequence[str],
        inputs: Inputs,
        forward: Forward,
        *,
        packed: bool = False,
        units: int | None = None,
        rank: int | None = None,
    ) -> None:
        self._model, self._inputs, self._forward = model, inputs, forward
        self._roles = roles
        if min(units or 1, rank or 1) < 1 or 0 in (units, rank):
            raise UsageError(f"`units` and `rank` must be 1 or more: got {units} and {rank}")
        self._given, self._merges = (units, rank), packed and "fold" in passes
        many = sum(map(_may_lose_units, model.modules())) > MOST_TRIED
        self.units: Sequence[float] = UNIT_SHARES if "units" in passes and not many else ()
        self.ranks: Sequence[float] = RANK_SHARES if "rings" in passes else ()
        self.notes = (KEPT,) if "units" in passes and many and units is None else ()
        self._able: dict[str, Saliency] | None = None

    def untrained(self) -> Iterator[Structure]:
        """Structures for a network that stays as it is: whole, lower ranks, fewer units; the smallest last."""
        if self._given != (None, None):
            yield self._as_given()
            return
        yield self._with_merged(Structure())
        for rank in self.ranks:
            yield from self.build(1.0, rank)
        for units in self.units:
            yield from self.build(units, None)
        if self.units and self.ranks:
            yield from self.build(self.units[-1], self.ranks[-1])

    def grid(self) -> Iterator[Structure]:
        """Every number of units with every rank, for a network that will be trained: most units first."""
        if self._given != (None, None):
            yield self._as_given()
            return
        for rank in (None, *self.ranks):
            if rank is None:
                yield self._with_merged(Structure())
            else:
                yield from self.build(1.0, rank)
            for units in self.units:
                yield from self.build(units, rank)

    def build(self, units: float, rank: float | None) -> Iterator[Structure]:
        """Yield one structure, if anything of the network can be given these sizes."""
        swaps: dict[str, nn.Module] = {}
        records: list[PassRecord] = []
        if units < 1 or isinstance(units, int):
            self._remove(units, rank if "ih" in self._roles else None, swaps, records)
            if not swaps:
                return
        lowered = rank is not None and self._lower(rank, swaps, records)
        refitted = swaps and (isinstance(rank, int) or any(isinstance(one, RingStack) for one in swaps.values()))
        if rank is not None and not lowered and not refitted:
            return
        yield self._with_merged(Structure(units, rank, swaps, tuple(records)))

    def _with_merged(self, made: Structure) -> Structure:
        """Merge the biases of layers that only see their sum, last of all: repairs move either."""
        swaps = dict(made.swaps)
        with swapped(self._model, swaps) as changed:
            for name, module in changed.named_modules():
                if self._merges and is_recurrent(module) and module.bias and recurrent_kind(module).sums_biases:
                    swaps[name] = merge_biases(module)
        return replace(made, swaps=swaps)

    def _as_given(self) -> Structure:
        units, rank = self._given
        found = next(self.build(1.0 if units is None else units, rank), None)
        if found is None:
            able = {name: self._model.get_submodule(name).hidden_size for name in self._importance()}
            told = ", ".join(f"{name} {size}" for name, size in able.items()) or "none"
            asked = {"units": units, "rank": rank}
            given = " and ".join(f"`{name}={value}`" for name, value in asked.items() if value is not None)
            raise UsageError(
                f"{given} must change something: layers whose units may go have: {told}; "
                f"matrices that may be of lower rank are `matrices={','.join(self._roles)}`"
            )
        return found

    def _remove(
        self, wanted: float, rank: float | None, swaps: dict[str, nn.Module], records: list[PassRecord]
    ) -> None:
        for name, scores in self._importance().items():
            module: Any = self._model.get_submodule(name)
            asked = wanted if isinstance(wanted, int) else round(module.hidden_size * wanted)
            keep = max(module.proj_size + 1, asked, 1)
            if keep >= module.hidden_size:
                continue
            with swapped(self._model, swaps) as changed:
                seen = matrix_moments(changed, self._inputs.fitted, self._forward)
                fitted, forward = self._inputs.fitted, self._forward
                found = fewer_units(changed, name, keep, seen, fitted, forward, scores=scores, rank=rank).swaps
            before, after = f"{module.hidden_size} units", f"{keep} units"
            records += [PassRecord(kind="units", name=one, before=before, after=after) for one in found]
            swaps |= found

    def _lower(self, rank: float, swaps: dict[str, nn.Module], records: list[PassRecord]) -> bool:
        with swapped(self._model, swaps) as changed:
            seen = matrix_moments(changed, self._inputs.fitted, self._forward)
            found = ring_swaps(changed, rank, seen, self._roles)
            dense = {name: changed.get_submodule(name) for name in found}
        for name, module in found.items():
            for local, one in module.named_children():
                if isinstance(one, CoreWeight) and not isinstance(dense[name]._modules.get(local), CoreWeight):
                    matrix = one.plan.matrix
                    key = f"{name}.{local}" if name else local
                    before, after = f"{matrix.rows} x {matrix.columns}", f"rank {one.bottleneck}"
                    records.append(PassRecord(kind="rings", name=key, before=before, after=after))
        swaps |= found
        return bool(found)

    def _importance(self) -> dict[str, Saliency]:
        """Recurrent layers whose units may go, each with their importance."""
        if self._able is None:
            self._able = {}
            for name, module in self._model.named_modules():
                if _may_lose_units(module):
                    try:
                        self._able[name] = self._scores(name, module)
                    except UsageError:
                        continue  # something else reads its states: they stay
        return self._able

    def _scores(self, name: str, module: Any) -> Saliency:
        batches = self._inputs.held_out[:1]
        readers = () if module.proj_size else readers_of(self._model, name, batches, self._forward)
        return saliency(self._model, name, readers, self._inputs.fitted, self._forward)


def _may_lose_units(module: nn.Module) -> bool:
    return is_plain_stack(module) or isinstance(module, RingStack)
