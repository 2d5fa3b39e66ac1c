"""Other sizes that a network may be given before it is rounded: input weights of lower rank, fewer hidden units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from trcompress.errors import UsageError
from trcompress.layers.swaps import swapped
from trcompress.model.header import PassRecord
from trcompress.network.batches import Forward
from trcompress.passes.damage import Inputs
from trcompress.passes.matrix_moments import MatrixMoments, matrix_moments
from trcompress.passes.readers import readers_of
from trcompress.passes.saliency import Saliency, saliency
from trcompress.passes.units import fewer_units

SHARES = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)
"""Shares of the hidden units that are kept."""


@dataclass(frozen=True)
class Structure:
    """Sizes of a network.

    Args:
        name: in words.
        swaps: the modules that differ, by name.
        records: of the passes, for the file.
        kinds: storage types allowed with it; empty for what the user allows.
    """

    name: str
    swaps: Mapping[str, nn.Module] = field(default_factory=dict)
    records: tuple[PassRecord, ...] = ()
    kinds: tuple[str, ...] = ()


def structures_of(
    model: nn.Module, passes: Sequence[str], inputs: Inputs, forward: Forward, *, trained: bool
) -> list[Structure]:
    """List the structures to try, from the whole network to the smallest.

    Args:
        model: the network.
        passes: what is allowed.
        inputs: to rank units on.
        forward: `forward(model, batch)`.
        trained: whether it will be trained: each is then tried at eight bits before the next, and at fewer only
            where the smallest is too large.
    """
    found = [Structure("every unit")]
    if "units" in passes:
        found += list(_fewer(model, inputs, forward))
    if not trained:
        return found
    eight = [Structure(one.name, one.swaps, one.records, ("float16", "int8")) for one in found]
    return [*eight, found[-1]]


def _fewer(model: nn.Module, inputs: Inputs, forward: Forward) -> Iterator[Structure]:
    able = _able(model, inputs, forward)
    if not able:
        return
    seen = matrix_moments(model, inputs.fitted, forward)
    for share in SHARES:
        swaps: dict[str, nn.Module] = {}
        records = []
        for name, scores in able.items():
            module: Any = swaps.get(name, model.get_submodule(name))
            keep = max(module.proj_size + 1, round(module.hidden_size * share), 1)
            if keep >= module.hidden_size:
                continue
            fewer = _without(model, swaps, name, keep, seen, inputs, forward, scores)
            before, after = f"{module.hidden_size} units", f"{keep} units"
            records += [PassRecord(kind="units", name=one, before=before, after=after) for one in fewer]
            swaps |= fewer
        if swaps:
            yield Structure(f"{share:.4g} of the units", swaps, tuple(records))


def _without(
    model: nn.Module,
    swaps: Mapping[str, nn.Module],
    name: str,
    keep: int,
    seen: MatrixMoments,
    inputs: Inputs,
    forward: Forward,
    scores: Saliency,
) -> Mapping[str, nn.Module]:
    """One layer with fewer units, and its readers, on top of swaps made before."""
    with swapped(model, swaps) as changed:
        moments = matrix_moments(changed, inputs.fitted, forward) if swaps else seen
        return fewer_units(changed, name, keep, moments, inputs.fitted, forward, scores=scores).swaps


def _able(model: nn.Module, inputs: Inputs, forward: Forward) -> dict[str, Saliency]:
    """Recurrent layers whose units may go, each with their importance."""
    found = {}
    for name, module in model.named_modules():
        if type(module) in (nn.LSTM, nn.GRU, nn.RNN):
            try:
                readers = () if module.proj_size else readers_of(model, name, inputs.held_out[:1], forward)
            except UsageError:
                continue
            found[name] = saliency(model, name, readers, inputs.fitted, forward)
    return found
