"""Other sizes that a network may be given before it is rounded: matrices of lower rank, fewer hidden units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from trcompress.errors import UsageError
from trcompress.layers import CoreWeight, is_plain_stack
from trcompress.layers.swaps import swapped
from trcompress.model.header import PassRecord
from trcompress.network.batches import Forward
from trcompress.passes.damage import Inputs
from trcompress.passes.matrix_moments import matrix_moments
from trcompress.passes.readers import readers_of
from trcompress.passes.rings import ring_swaps
from trcompress.passes.saliency import Saliency, saliency
from trcompress.passes.units import fewer_units

UNIT_SHARES = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)
"""Shares of the hidden units that are kept."""

RANK_SHARES = (0.5, 0.25, 0.125)
"""Ranks that are tried, as shares of the rank at which two factors take as many values as the matrix."""


@dataclass(frozen=True)
class Structure:
    """Sizes of a network.

    Args:
        units: share of the hidden units that stay.
        rank: share of the break-even rank, or None where matrices stay whole.
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
        kept = "every unit" if self.units == 1 else f"{self.units:.4g} of the units"
        return kept if self.rank is None else f"{kept}, {self.rank:.4g} of the break-even rank"


class Structures:
    """Builds structures of one network.

    Args:
        model: the network.
        passes: "units" and "rings" where they are allowed.
        roles: matrices that may be rings: "ih", "hh".
        inputs: to rank units and to fit on.
        forward: `forward(model, batch)`.
    """

    def __init__(
        self, model: nn.Module, passes: Sequence[str], roles: Sequence[str], inputs: Inputs, forward: Forward
    ) -> None:
        self._model, self._inputs, self._forward = model, inputs, forward
        self._roles = roles
        self.units = UNIT_SHARES if "units" in passes else ()
        self.ranks = RANK_SHARES if "rings" in passes else ()
        self._able: dict[str, Saliency] | None = None

    def untrained(self) -> Iterator[Structure]:
        """Structures for a network that stays as it is: whole, lower ranks, fewer units; the smallest last."""
        yield Structure()
        for rank in self.ranks:
            yield from self.build(1.0, rank)
        for units in self.units:
            yield from self.build(units, None)
        if self.units and self.ranks:
            yield from self.build(self.units[-1], self.ranks[-1])

    def grid(self) -> Iterator[Structure]:
        """Every number of units with every rank, for a network that will be trained: most units first."""
        for rank in (None, *self.ranks):
            if rank is None:
                yield Structure()
            else:
                yield from self.build(1.0, rank)
            for units in self.units:
                yield from self.build(units, rank)

    def build(self, units: float, rank: float | None) -> Iterator[Structure]:
        """Yield one structure, if anything of the network can be given these sizes."""
        swaps: dict[str, nn.Module] = {}
        records: list[PassRecord] = []
        if units < 1:
            self._remove(units, swaps, records)
            if not swaps:
                return
        if rank is not None and not self._lower(rank, swaps, records):
            return
        yield Structure(units, rank, swaps, tuple(records))

    def _remove(self, share: float, swaps: dict[str, nn.Module], records: list[PassRecord]) -> None:
        for name, scores in self._importance().items():
            module: Any = self._model.get_submodule(name)
            keep = max(module.proj_size + 1, round(module.hidden_size * share), 1)
            if keep >= module.hidden_size:
                continue
            with swapped(self._model, swaps) as changed:
                seen = matrix_moments(changed, self._inputs.fitted, self._forward)
                found = fewer_units(
                    changed, name, keep, seen, self._inputs.fitted, self._forward, scores=scores
                ).swaps
            before, after = f"{module.hidden_size} units", f"{keep} units"
            records += [PassRecord(kind="units", name=one, before=before, after=after) for one in found]
            swaps |= found

    def _lower(self, share: float, swaps: dict[str, nn.Module], records: list[PassRecord]) -> bool:
        with swapped(self._model, swaps) as changed:
            seen = matrix_moments(changed, self._inputs.fitted, self._forward)
            found = ring_swaps(changed, share, seen, self._roles)
        for name, module in found.items():
            for local, one in module.named_children():
                if isinstance(one, CoreWeight):
                    matrix, rank = one.plan.matrix, one.bottleneck
                    key = f"{name}.{local}" if name else local
                    before = f"{matrix.rows} x {matrix.columns}"
                    records.append(PassRecord(kind="rings", name=key, before=before, after=f"rank {rank}"))
        swaps |= found
        return bool(found)

    def _importance(self) -> dict[str, Saliency]:
        """Recurrent layers whose units may go, each with their importance."""
        if self._able is None:
            self._able = {}
            for name, module in self._model.named_modules():
                if is_plain_stack(module):
                    try:
                        self._able[name] = self._scores(name, module)
                    except UsageError:
                        continue  # something else reads its states: they stay
        return self._able

    def _scores(self, name: str, module: Any) -> Saliency:
        batches = self._inputs.held_out[:1]
        readers = () if module.proj_size else readers_of(self._model, name, batches, self._forward)
        return saliency(self._model, name, readers, self._inputs.fitted, self._forward)
