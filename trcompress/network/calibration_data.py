"""Sequences for the stacks of one network, as calibration reads them: in batches, and in two parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trcompress.network.feeds import Feed

HELD_OUT = 0.25
"""Share of the examples that are held out to compare on."""
MOST_HELD_OUT, MOST_FITTED = 2_000, 20_000
"""Examples at most, of either part."""
BATCH_VALUES = 1 << 22
"""Numbers of input that are read at once."""


@dataclass(frozen=True)
class CalibrationData:
    """Sequences for the stacks of one network; row n of every feed belongs to the same example.

    Args:
        name: the file, for reports.
        sha256: its hash; empty for folders and code.
        feeds: by stack.
        states: what a stack starts from: another stack, whose last state it takes over, or (N, L, H) values;
            zeros where not given.
        groups: (N,) the person or recording of each example, or None.
        notes: what was decided, in words.
    """

    name: str
    sha256: str
    feeds: Mapping[str, Feed]
    states: Mapping[str, str | Tensor]
    groups: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """N, examples."""
        return len(next(iter(self.feeds.values())))

    def batches(self, rows: np.ndarray, most: int) -> Iterator[dict[str, Any]]:
        """Read examples a few at a time.

        Args:
            rows: which of them.
            most: examples in a batch, fewer where they are large.

        Yields:
            "fed": by stack, vectors (B, T, I) or tokens (B, T), cut to the longest, and lengths (B,) or None where
            all are equal; "states": by stack, (L, B, H) initial states that the data gives.
        """
        per_row = max(1, sum(feed.values for feed in self.feeds.values()))
        size = max(1, min(most, BATCH_VALUES // per_row))
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            fed = {stack: _cut(*feed.read(chosen)) for stack, feed in self.feeds.items()}
            states = {
                stack: state[torch.from_numpy(chosen)].transpose(0, 1).contiguous()
                for stack, state in self.states.items()
                if isinstance(state, Tensor)
            }
            yield {"fed": fed, "states": states}

    def divide(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to fit on and rows to compare on: whole groups where groups are known."""
        order = np.random.default_rng(seed).permutation(self.count)
        if self.count < 4:
            return order, order
        wanted = round(HELD_OUT * self.count)
        if self.groups is None or len(np.unique(self.groups)) <= 3:
            return order[wanted:][:MOST_FITTED], order[:wanted][:MOST_HELD_OUT]
        groups = self.groups[order]
        _, first, codes, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
        by_chance = np.argsort(first)  # groups in the order in which they come up
        ends = np.cumsum(counts[by_chance])
        held = np.isin(codes, by_chance[: max(1, int(np.searchsorted(ends, wanted, side="right")))])
        return order[~held][:MOST_FITTED], order[held][:MOST_HELD_OUT]


def _cut(entries: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Steps up to the longest sequence; no lengths where all are as long."""
    if lengths is None:
        return entries, None
    longest = int(lengths.max())
    return entries[:, :longest], None if bool((lengths == longest).all()) else lengths
