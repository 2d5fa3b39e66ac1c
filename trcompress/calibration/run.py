"""`calibrate`: the cores of every weight, chosen by what they do to the outputs of a live network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from trcompress.calibration.live import LiveNetwork
from trcompress.calibration.refine import Refined, refine
from trcompress.calibration.select import Candidate, Choice, choose_jointly, choose_metric, joint_distance
from trcompress.calibration.solve import plain_error
from trcompress.decomposition import MatrixSource
from trcompress.decomposition.weight import CompressedWeight, decompose_weight
from trcompress.errors import UsageError
from trcompress.formats import is_ring
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.progress import Progress, part_of

NO_GRADIENTS = "what is compared has no gradient at the recurrent layers: all gates weigh alike"


@dataclass(frozen=True)
class Calibrated:
    """Compressed weights, chosen on data.

    Args:
        weights: with the list of candidates of each.
        biases: corrected input biases in float64, by their names in the live network.
        facts: what was used and reached, plain values for the lineage.
    """

    weights: tuple[CompressedWeight, ...]
    biases: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def calibrate(
    live: LiveNetwork,
    plans: Sequence[WeightPlan],
    sources: Mapping[str, MatrixSource],
    *,
    refine_steps: int = 0,
    warm_starts: Mapping[str, Sequence[Tensor] | None] | None = None,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
    **settings: Any,
) -> Calibrated:
    """Decompose weights in the metric in which the network's outputs stay closest to the dense ones.

    Args:
        live: the dense network on its data.
        plans: the structure of each weight; several for one weight compete.
        sources: the values of each weight, by key.
        refine_steps: gradient steps that match hidden states and outputs of the dense network; 0 for none.
        warm_starts: cores to start from, by weight.
        progress: called with (what, fraction done).
        notes: how the structures were chosen, in words, for the report.
        settings: passed on to `trcompress.decomposition.decompose` for the plain metric.

    Returns:
        The weights, the biases that changed, and what was decided.

    Raises:
        UsageError: nothing that is planned can be fed, or there is nothing to take gradient steps by.
    """
    if refine_steps:
        live.require_gradients()
    choices: list[Choice] = []
    unfed: list[CompressedWeight] = []
    names = list(dict.fromkeys(plan.name for plan in plans))
    for done, name in enumerate(names):
        tell = part_of(progress, name, done, len(names) * (2 if refine_steps else 1))
        plain = [
            decompose_weight(
                plan, sources[name], progress=tell, seed=live.seed, **_start(plan, warm_starts), **settings
            )
            for plan in plans
            if plan.name == name
        ]
        if live.feeds(name) and is_ring(plain[0].plan.structure):
            choices.append(choose_metric(live, plain, sources[name], tell=tell))
        else:
            unfed.append(replace(plain[0], notes=(*plain[0].notes, "not calibrated: nothing is known to feed it")))
    if not choices:
        raise UsageError(
            f"nothing to calibrate: the data feeds none of {', '.join(names)}; name its arrays by stack"
        )
    found = _finish(live, choices, sources, refine_steps, progress)
    every = {one.plan.name: one for one in (*found.weights, *unfed)}
    weights = tuple(replace(every[name], notes=(*every[name].notes, *notes)) for name in names)
    return replace(found, weights=weights, facts={**found.facts, "notes": [*notes, *found.facts["notes"]]})


def _start(plan: WeightPlan, warm_starts: Mapping[str, Sequence[Tensor] | None] | None) -> dict[str, Any]:
    """Cores to start from, where there are some of this structure."""
    cores = (warm_starts or {}).get(plan.name)
    if not cores or len(cores) != len(plan.structure.core_shapes):
        return {}
    return {"warm_start": cores}


def _finish(
    live: LiveNetwork,
    choices: Sequence[Choice],
    sources: Mapping[str, MatrixSource],
    refine_steps: int,
    progress: Progress | None,
) -> Calibrated:
    """Check the choices together, refine them if asked, and collect."""
    plain = joint_distance(live, [choice.plain for choice in choices])
    choices, joint = choose_jointly(choices, lambda chosen: joint_distance(live, chosen))
    recording = live.recording
    facts: dict[str, Any] = {
        "batches_fitted": len(recording.fitted),
        "batches_held_out": len(recording.held_out),
        "measure": recording.outputs.measure,
        "difference_plain": plain,
        "difference_chosen": joint,
        "notes": [*recording.notes, *([] if live.sensitivities else [NO_GRADIENTS])],
    }
    chosen = [choice.chosen for choice in choices]
    weights = [choice.compressed(recording.outputs.measure) for choice in choices]
    if refine_steps:
        refined = refine(live, chosen, refine_steps, tell=part_of(progress, "all weights", 1, 2))
        facts |= {"refine_steps": refined.steps, "difference_refined": min(joint, refined.after)}
        if refined.after < joint:
            chosen = list(refined.candidates)
            weights = [_refined(one, sources, weight, refined) for one, weight in zip(chosen, weights, strict=True)]
    facts["matrices"] = {
        choice.plain.key: {"difference_plain": choice.plain.score, "difference": joint_distance(live, [one])}
        for choice, one in zip(choices, chosen, strict=True)
    }
    biases = {name: one.bias for one in chosen if one.bias is not None and (name := live.bias_name(one.key))}
    return Calibrated(tuple(weights), biases, facts)


def _refined(
    one: Candidate, sources: Mapping[str, MatrixSource], before: CompressedWeight, refined: Refined
) -> CompressedWeight:
    """The refined cores, described like those they came from."""
    error = plain_error(one.found.plan, sources[one.key], one.found.cores)
    return replace(before, cores=one.found.cores, error=error, init=f"{before.init}, refined {refined.steps} steps")
