"""`calibrate`: the cores of every weight, chosen by what they do to the network's outputs on the user's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcompress.calibration.bench import Bench
from trcompress.calibration.reading import CalibrationData
from trcompress.calibration.refine import refine
from trcompress.calibration.select import Candidate, Choice, settle
from trcompress.calibration.solve import plain_error
from trcompress.checkpoint import Checkpoint
from trcompress.decomposition.weight import CompressedWeight, decompose_weight, weight_source
from trcompress.errors import UsageError
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.progress import Progress, part_of


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
    plan_notes: Sequence[str] = (),
    **settings: Any,
) -> Calibrated:
    """Decompose weights in the metric in which the network's outputs on some data stay closest to the dense ones.

    Args:
        checkpoint: the dense network.
        plans: the structure of each weight; several for one weight compete.
        data: see `read_calibration`; labels are never used.
        refine_steps: gradient steps that match hidden states and outputs of the dense network; 0 for none.
        head: key of the linear layer over the last stack; None finds it by its shape, "" compares hidden states.
        readout: "final" compares what each sequence ends with, "every" each step; None decides by the inputs.
        seed: of everything random.
        warm_starts: cores to start from, by weight.
        progress: called with (what, fraction done).
        data_options: of `trcompress.data.load_data`.
        plan_notes: how the structures were chosen, in words, for the report.
        settings: passed on to `trcompress.decomposition.decompose` for the plain metric.

    Returns:
        The weights, the biases that changed, and what was decided.

    Raises:
        InputFileError: the data does not fit the network.
        UsageError: nothing that is planned can be fed.
    """
    bench = Bench.of(checkpoint, data, head=head, readout=readout, seed=seed, data_options=data_options)
    choices: list[Choice] = []
    unfed: list[CompressedWeight] = []
    names = list(dict.fromkeys(plan.name for plan in plans))
    for done, name in enumerate(names):
        tell = part_of(progress, name, done, len(names) * (2 if refine_steps else 1))
        dense = weight_source(checkpoint, next(plan.matrix for plan in plans if plan.name == name))
        plain = [
            decompose_weight(plan, dense, progress=tell, seed=seed, **_start(plan, warm_starts), **settings)
            for plan in plans
            if plan.name == name
        ]
        if bench.network.unit_of(name) is None or plain[0].plan.structure.bottleneck is None:
            unfed.append(replace(plain[0], notes=(*plain[0].notes, "not calibrated: nothing is known to feed it")))
        else:
            choices.append(bench.choose(plain, dense, tell))
    if not choices:
        listed = ", ".join(names)
        raise UsageError(f"nothing to calibrate: the data feeds none of {listed}; name its arrays by stack")
    found = _finish(checkpoint, bench, choices, unfed, refine_steps, progress)
    weights = (replace(one, notes=(*one.notes, *plan_notes)) for one in found.weights)
    facts = {**found.facts, "notes": [*plan_notes, *found.facts["notes"]]}
    return replace(found, weights=tuple(weights), facts=facts)


def _start(plan: WeightPlan, warm_starts: Mapping[str, Sequence[Tensor] | None] | None) -> dict[str, Any]:
    """Cores to start from, where there are some of this structure."""
    cores = (warm_starts or {}).get(plan.name)
    if not cores or len(cores) != len(plan.structure.core_shapes):
        return {}
    return {"warm_start": cores}


def _finish(
    checkpoint: Checkpoint,
    bench: Bench,
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
            weights = {
                name: _refined(checkpoint, one, weights[name], refine_steps)
                for name, one in zip(weights, chosen, strict=True)
            }
    weights |= {one.plan.name: one for one in unfed}
    changed = {
        key: one.bias.to(getattr(torch, checkpoint.dtypes[key]))
        for one in chosen
        if one.bias is not None and (key := bench.network.free_bias(one.found.plan.name))
    }
    order = [layer.keys["weight_ih"] for layer in checkpoint.layers]
    return Calibrated(tuple(weights[name] for name in order if name in weights), changed, facts)


def _refined(checkpoint: Checkpoint, one: Candidate, before: CompressedWeight, steps: int) -> CompressedWeight:
    """The refined cores, described like those they came from."""
    error = plain_error(one.found.plan, weight_source(checkpoint, one.found.plan.matrix), one.found.cores)
    return replace(before, cores=one.found.cores, error=error, init=f"{before.init}, refined {steps} steps")
