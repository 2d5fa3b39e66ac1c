"""A network on its data: what its layers are fed, how its gates answer, and held-out examples to compare on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trcompress.calibration.feeds import TokenFeed
from trcompress.calibration.network import Network, Unit
from trcompress.calibration.outputs import Exam, Judge
from trcompress.calibration.reading import CalibrationData, read_calibration
from trcompress.calibration.select import Candidate, Choice, choose, replaced
from trcompress.calibration.sensitivity import gate_sensitivity, unit_input
from trcompress.calibration.sequences import flat_rows
from trcompress.checkpoint import Checkpoint
from trcompress.decomposition.weight import CompressedWeight
from trcompress.network.model_file import of_checkpoint
from trcompress.network.moments import InputMoments, Sketch, weighted_moments
from trcompress.util.progress import Progress

HELD_OUT = 0.25
"""Share of the examples on which candidates are compared; the rest gives moments and gradients."""
MOST_HELD_OUT, MOST_FITTED, MOST_PROBED, MOST_BRIEF = 2_000, 20_000, 256, 400
"""Examples used at most: to compare, to fit, to measure sensitivity, to compare many ranks."""
MOST_GATES = 4096
"""Gate rows above which sensitivity is not measured: its second moments would take too much memory."""


@dataclass
class Bench:
    """A network on its data: what its layers are fed, and held-out examples to compare candidates on.

    Args:
        network: the dense network.
        judge: compares outputs.
        exam: the held-out examples.
        fitted: the other examples.
        seed: of everything random.
    """

    network: Network
    judge: Judge
    exam: Exam
    fitted: np.ndarray
    seed: int
    _moments: dict[str, InputMoments] = field(default_factory=dict)
    _sensitivity: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        data: str | Path | CalibrationData,
        *,
        head: str | None = None,
        readout: str | None = None,
        seed: int = 0,
        data_options: Mapping[str, Any] | None = None,
    ) -> Bench:
        """Open the data and divide it."""
        checkpoint.refuse_unknown()
        file = of_checkpoint(checkpoint, checkpoint.path)
        if not isinstance(data, CalibrationData):
            data = read_calibration(data, file, **dict(data_options or {}))
        network = Network(file, data, tied=[key for group in checkpoint.shared for key in group])
        judge = Judge(network, head, readout)
        fitted, held = divide(data, seed)
        return cls(network, judge, Exam(judge, held), fitted, seed)

    @cached_property
    def brief_exam(self) -> Exam:
        """Some of the held-out examples, for where much is to be compared."""
        return Exam(self.judge, self.exam.rows[:MOST_BRIEF])

    def moments(self, unit: Unit) -> InputMoments:
        """What a unit is fed, over the fitted examples."""
        if unit.name not in self._moments:
            self._moments[unit.name] = _moments(self.network, unit, self.fitted)
        return self._moments[unit.name]

    def sensitivity(self, weight: str) -> Tensor | None:
        """How much the outputs answer to a weight's gates; None where that is too large to hold."""
        unit = self.network.unit(weight)
        if weight not in self._sensitivity and len(self.network.tensors[weight]) <= MOST_GATES:
            generator = torch.Generator().manual_seed(self.seed)
            batches = list(self.network.batches(self.fitted[:MOST_PROBED]))
            self._sensitivity |= gate_sensitivity(
                self.network, unit, batches, lambda run: self.judge.probe(run, generator)
            )
        return self._sensitivity.get(weight)

    def choose(
        self,
        plain: CompressedWeight | Sequence[CompressedWeight],
        dense: Any,
        tell: Progress | None = None,
        quick: bool = False,
    ) -> Choice:
        """Compare the metrics for one weight, in one structure or several; see `select.choose`."""
        plain = [plain] if isinstance(plain, CompressedWeight) else plain
        name = plain[0].plan.name
        moments, gates = self.moments(self.network.unit(name)), self.sensitivity(name)
        return choose(self.network, self.exam, plain, dense, moments, gates, seed=self.seed, quick=quick, tell=tell)

    def joint(self, chosen: Sequence[Candidate], exam: Exam | None = None) -> float:
        """The held-out difference with all these weights in place."""
        modules = {}
        for unit in self.network.units:
            mine = [one for one in chosen if one.found.plan.name in unit.weights]
            if mine:
                modules[unit.name] = replaced(self.network, unit, mine)
        return (exam or self.exam).score(modules)


def divide(data: CalibrationData, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on and rows to compare on: whole groups where groups are known."""
    order = np.random.default_rng(seed).permutation(data.count)
    if data.count < 4:
        return order, order
    wanted = round(HELD_OUT * data.count)
    if data.groups is not None and len(np.unique(data.groups)) > 3:
        groups = data.groups[order]
        names = list(dict.fromkeys(groups.tolist()))
        ends = np.cumsum([(groups == name).sum() for name in names])
        taken = names[: max(1, int(np.searchsorted(ends, wanted, side="right")))]
        held = np.isin(groups, taken)
    else:
        held = np.arange(data.count) < wanted
    return order[~held][:MOST_FITTED], order[held][:MOST_HELD_OUT]


def _moments(network: Network, unit: Unit, rows: np.ndarray) -> InputMoments:
    feed = network.data.feeds.get(unit.stack)
    if unit.below is None and isinstance(feed, TokenFeed):
        return weighted_moments(feed.embedding, feed.use(rows))
    sketch = Sketch(unit.layers[0].input_size)
    with torch.no_grad():
        for batch in network.batches(rows):
            sketch.add(flat_rows(unit_input(network, unit, batch)))
    return sketch.moments()
