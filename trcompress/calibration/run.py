"""`calibrate`: the cores of every weight, chosen by what they do to the network's outputs on the user's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trcompress.calibration.feeds import TokenFeed
from trcompress.calibration.network import Network, Unit, flat_rows
from trcompress.calibration.outputs import Exam, Judge
from trcompress.calibration.reading import CalibrationData, read_calibration
from trcompress.calibration.refine import refine
from trcompress.calibration.select import Candidate, Choice, choose, replaced, settle
from trcompress.calibration.sensitivity import gate_sensitivity, unit_input
from trcompress.calibration.sketch import InputMoments, Sketch, weighted_moments
from trcompress.calibration.solve import plain_error
from trcompress.checkpoint import Checkpoint
from trcompress.errors import UsageError
from trcompress.formats import TensorRing
from trcompress.plan import WeightPlan
from trcompress.progress import Progress, part_of
from trcompress.training.model_file import of_checkpoint
from trcompress.weights import CompressedWeight, decompose_weight, dense_weight, matrices_of

HELD_OUT = 0.25
"""Share of the examples on which candidates are compared; the rest gives moments and gradients."""
MOST_HELD_OUT, MOST_FITTED, MOST_PROBED = 2_000, 20_000, 256
"""Examples used at most: to compare, to fit, to measure sensitivity."""
MOST_GATES = 4096
"""Gate rows above which sensitivity is not measured: its second moments would take too much memory."""


@dataclass(frozen=True)
class Calibrated:
    """Compressed weights, chosen on data.

    Args:
        weights: with the list of candidates of each.
        changed: corrected biases, by key, in their own dtype.
        facts: what was used and reached, plain values for the lineage.
    """

    weights: tuple[CompressedWeight, ...]
    changed: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def calibrate(
    checkpoint: Checkpoint,
    plans: Sequence[WeightPlan],
    data: str | Path | CalibrationData,
    *,
    refine_steps: int = 0,
    head: str | None = None,
    readout: str | None = None,
    seed: int = 0,
    warm_starts: Mapping[str, Sequence[Tensor] | None] | None = None,
    progress: Progress | None = None,
    data_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Calibrated:
    """Decompose weights in the metric in which the network's outputs on some data stay closest to the dense ones.

    Args:
        checkpoint: the dense network.
        plans: the structure of each weight.
        data: see `read_calibration`; labels are never used.
        refine_steps: gradient steps that match hidden states and outputs of the dense network; 0 for none.
        head: key of the linear layer over the last stack; None finds it by its shape, "" compares hidden states.
        readout: "final" compares what each sequence ends with, "every" each step; None decides by the inputs.
        seed: of everything random.
        warm_starts: cores to start from, by weight.
        progress: called with (what, fraction done).
        data_options: of `trcompress.data.load_data`.
        settings: passed on to `trcompress.decompose.decompose` for the plain metric.

    Returns:
        The weights, the biases that changed, and what was decided.

    Raises:
        InputFileError: the data does not fit the network.
        UsageError: nothing that is planned can be fed.
    """
    bench = Bench.of(checkpoint, data, head=head, readout=readout, seed=seed, data_options=data_options)
    choices: list[Choice] = []
    unfed: list[CompressedWeight] = []
    for done, plan in enumerate(plans):
        tell = part_of(progress, plan.name, done, len(plans) * (2 if refine_steps else 1))
        start = (warm_starts or {}).get(plan.name)
        options = {"seed": seed, **settings} | ({"warm_start": start} if start else {})
        dense = dense_weight(checkpoint, plan.slot)
        plain = decompose_weight(plan, dense, progress=tell, **options)
        if bench.network.unit_of(plan.name) is None or not isinstance(plan.structure, TensorRing):
            unfed.append(replace(plain, notes=(*plain.notes, "not calibrated: nothing is known to feed it")))
        else:
            choices.append(bench.choose(plain, dense, tell))
    if not choices:
        names = ", ".join(plan.name for plan in plans)
        raise UsageError(f"nothing to calibrate: the data feeds no planned weight ({names}); name its arrays by stack")
    return _finish(checkpoint, bench, plans, choices, unfed, refine_steps, progress)


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
        file = of_checkpoint(checkpoint, checkpoint.path)
        if not isinstance(data, CalibrationData):
            data = read_calibration(data, file, **dict(data_options or {}))
        network = Network(file, data, tied=[key for group in checkpoint.shared for key in group])
        judge = Judge(network, head, readout)
        fitted, held = divide(data, seed)
        return cls(network, judge, Exam(judge, held), fitted, seed)

    def moments(self, unit: Unit) -> InputMoments:
        """What a unit is fed, over the fitted examples."""
        if unit.name not in self._moments:
            self._moments[unit.name] = _moments(self.network, unit, self.fitted)
        return self._moments[unit.name]

    def sensitivity(self, weight: str) -> Tensor | None:
        """How much the outputs answer to a weight's gates; None where that is too large to hold."""
        unit = self.network.unit_of(weight)
        if weight not in self._sensitivity and len(self.network.tensors[weight]) <= MOST_GATES:
            generator = torch.Generator().manual_seed(self.seed)
            batches = list(self.network.batches(self.fitted[:MOST_PROBED]))
            self._sensitivity |= gate_sensitivity(
                self.network, unit, batches, lambda run: self.judge.probe(run, generator)
            )
        return self._sensitivity.get(weight)

    def choose(self, plain: CompressedWeight, dense: Any, tell: Progress | None = None) -> Choice:
        """Compare the metrics for one weight; see `select.choose`."""
        moments = self.moments(self.network.unit_of(plain.plan.name))
        gates = self.sensitivity(plain.plan.name)
        return choose(self.network, self.exam, plain, dense, moments, gates, seed=self.seed, tell=tell)

    def joint(self, chosen: Sequence[Candidate]) -> float:
        """The held-out difference with all these weights in place."""
        modules = {}
        for unit in self.network.units:
            mine = [one for one in chosen if one.found.plan.name in unit.weights]
            if mine:
                modules[unit.name] = replaced(self.network, unit, mine)
        return self.exam.score(modules)


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


def _finish(
    checkpoint: Checkpoint,
    bench: Bench,
    plans: Sequence[WeightPlan],
    choices: Sequence[Choice],
    unfed: Sequence[CompressedWeight],
    refine_steps: int,
    progress: Progress | None,
) -> Calibrated:
    """Check the choices together, refine them if asked, and collect."""
    plain = bench.joint([choice.plain for choice in choices])
    choices, joint = settle(choices, bench.joint)
    measure = bench.judge.measure
    data = bench.network.data
    facts = {
        "data": data.name,
        "data_sha256": data.sha256,
        "examples_fitted": len(bench.fitted),
        "examples_held_out": len(bench.exam.rows),
        "measure": measure,
        "difference_plain": plain,
        "difference_chosen": joint,
        "notes": [*data.notes, *bench.network.notes, *bench.judge.notes],
    }
    chosen = [choice.chosen for choice in choices]
    weights = {choice.chosen.found.plan.name: choice.compressed(measure) for choice in choices}
    if refine_steps:
        tell = part_of(progress, "all weights", 1, 2)
        refined = refine(
            bench.network, bench.judge, bench.exam, chosen, bench.fitted, refine_steps, seed=bench.seed, tell=tell
        )
        facts |= {"refine_steps": refine_steps, "difference_refined": refined.after}
        if refined.after < refined.before:
            chosen = list(refined.candidates)
            weights = {name: _refined(checkpoint, one, weights[name], refine_steps) for name, one in zip(weights, chosen, strict=True)}
    for one in unfed:
        weights[one.plan.name] = one
    changed = {
        key: one.bias.to(getattr(torch, checkpoint.dtypes[key]))
        for one in chosen
        if one.bias is not None and (key := bench.network.free_bias(one.found.plan.name))
    }
    return Calibrated(tuple(weights[plan.name] for plan in plans), changed, facts)


def _refined(checkpoint: Checkpoint, one: Candidate, before: CompressedWeight, steps: int) -> CompressedWeight:
    """The refined cores, described like those they came from."""
    matrices = matrices_of(one.found.plan, dense_weight(checkpoint, one.found.plan.slot))
    error = plain_error(matrices, one.found.plan, one.found.cores)
    return replace(before, cores=one.found.cores, error=error, init=f"{before.init}, refined {steps} steps")
