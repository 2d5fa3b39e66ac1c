"""A checkpoint decomposed on calibration data, as an artifact: what `decompose` writes given data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trcompress.artifact.file import Artifact
from trcompress.calibration import LiveNetwork, calibrate
from trcompress.calibration.user_network import live_network
from trcompress.checkpoint import Checkpoint, read_checkpoint
from trcompress.decomposition.weight import distinct_matrices, weight_source
from trcompress.model.header import Step
from trcompress.model.plan import Plan, ResolvedPlan
from trcompress.network.calibration_data import CalibrationData
from trcompress.passes.assemble import assemble
from trcompress.version import __version__


def decompose_calibrated(
    checkpoint: str | Path | Checkpoint,
    plan: Plan | ResolvedPlan,
    data: str | Path | CalibrationData,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    command: str = "",
    head: str | None = None,
    compare: str | None = None,
    outputs: str | None = None,
    model: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    live: LiveNetwork | None = None,
    plan_notes: Sequence[str] = (),
    **options: Any,
) -> Artifact:
    """Compress a checkpoint, choosing cores by what the network's outputs do on some data.

    Args:
        checkpoint: the dense checkpoint, or its path.
        plan: what to replace and how.
        data: inputs of the network; labels are never looked at. See `read_calibration`.
        seed: of everything random.
        dtype: of the cores; the weight's own by default.
        command: how the user asked for this, kept in the lineage.
        head: see `file_network`.
        compare: see `file_network`.
        outputs: see `file_network`.
        model: `package.module:factory` of the user's own network; see `live_network`.
        data_options: how to read `data`.
        live: the network on this data, where a search has run it already.
        plan_notes: how the plan was found, in words.
        options: of `calibrate`: `refine_steps`, `warm_starts`, `progress`, ...

    Returns:
        The artifact, not yet written: cores, corrected biases, every other tensor as it was.

    Raises:
        InputFileError: checkpoint or data cannot be read, or do not fit each other.
        UsageError: the plan matches no weight, or nothing that is planned can be fed.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    checkpoint.check_compressible(own_network=model is not None)
    settings: dict[str, Any] = {"head": head, "compare": compare, "outputs": outputs, "data_options": data_options}
    live = live or live_network(checkpoint, data, **settings, model=model, seed=seed)
    every = distinct_matrices(checkpoint).matrices
    plans = plan.resolve([one for one in every if one.key in live.known(every)])
    sources = {one.name: weight_source(checkpoint, one.matrix) for one in plans}
    found = calibrate(live, plans, sources, notes=plan_notes, **options)
    keys = {name: key for key, name in live.names.items()}
    biases = {keys.get(name, name): bias for name, bias in found.biases.items()}
    changed = {key: bias.to(getattr(torch, checkpoint.dtypes[key])) for key, bias in biases.items()}
    step = Step(
        verb="decompose",
        command=command,
        seed=seed,
        version=__version__,
        settings={"calibration": {**live.origin, **found.facts}},
    )
    return assemble(checkpoint, found.weights, step, dtype=dtype, changed=changed)
