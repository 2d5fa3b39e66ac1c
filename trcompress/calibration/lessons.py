"""What refinement learns from: batches of examples with what the dense network makes of them.

Of token sequences there are also variants, in which some tokens are swapped for others: the dense network answers
those as well, and a few hundred sequences alone would be learnt by heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from trcompress.calibration.feeds import TokenFeed
from trcompress.calibration.network import Batch, Network, Unit
from trcompress.calibration.outputs import KEPT_VALUES, Judge
from trcompress.calibration.sequences import flat_rows, on_rows

BATCH = 64
"""Examples in a lesson."""
VARIANTS = 4
"""Versions of every batch, the first as it is."""
SWAPPED = 0.07
"""Share of the tokens that are swapped in a variant."""


@dataclass(frozen=True)
class Lesson:
    """One batch, and what the dense network makes of it.

    Args:
        batch: the examples.
        values: of each reading of the judge.
        hidden: of each unit, a row for each valid step.
    """

    batch: Batch
    values: list[Tensor]
    hidden: list[Tensor]


def lessons(network: Network, judge: Judge, units: Sequence[Unit], rows: np.ndarray, seed: int) -> Iterator[Lesson]:
    """Yield batches without end, in an order that changes every time round; kept in memory where they are small.

    Args:
        network: the dense network.
        judge: reads its outputs.
        units: whose hidden states are of interest.
        rows: the examples.
        seed: of the order and the variants.
    """
    generator = np.random.default_rng(seed)
    random = torch.Generator().manual_seed(seed)
    uses = {stack: feed.use(rows) for stack, feed in network.data.feeds.items() if isinstance(feed, TokenFeed)}
    parts = np.array_split(generator.permutation(rows), max(1, round(len(rows) / BATCH)))
    keep = VARIANTS * len(rows) * sum(feed.values for feed in network.data.feeds.values()) <= KEPT_VALUES
    kept: dict[tuple[int, int], Lesson] = {}
    version = 0
    while True:
        for number in generator.permutation(len(parts)).tolist():
            lesson = kept.get((number, version))
            if lesson is None:
                batch = network.batch(parts[number])
                lesson = _lesson(network, judge, units, _variant(batch, uses, random) if version else batch)
            if keep:
                kept[number, version] = lesson
            yield lesson
        version = (version + 1) % VARIANTS if uses else 0


@torch.no_grad()
def _lesson(network: Network, judge: Judge, units: Sequence[Unit], batch: Batch) -> Lesson:
    run = network.run(batch, {})
    return Lesson(batch, judge.reference(run), [flat_rows(run.outputs[unit.name]) for unit in units])


def _variant(batch: Batch, uses: dict[str, Tensor], random: torch.Generator) -> Batch:
    """The batch with some tokens swapped for others, drawn as often as they are used."""

    def swapped(stack: str, tokens: Tensor) -> Tensor:
        others = torch.multinomial(uses[stack], tokens.numel(), replacement=True, generator=random)
        chance = torch.rand(tokens.shape, generator=random)
        return torch.where(chance < SWAPPED, others.view_as(tokens), tokens)

    entries = {
        stack: on_rows(one, partial(swapped, stack)) if stack in uses else one
        for stack, one in batch.entries.items()
    }
    return replace(batch, entries=entries)
