"""A checkpoint decomposed on calibration data, as an artifact: what `decompose` writes given data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trcompress.artifact.file import Artifact
from trcompress.calibration.reading import CalibrationData
from trcompress.calibration.run import calibrate
from trcompress.checkpoint import Checkpoint, read_checkpoint
from trcompress.decomposition.weight import distinct_matrices
from trcompress.model.header import Step
from trcompress.model.plan import Plan
from trcompress.passes.assemble import assemble
from trcompress.version import __version__


def decompose_calibrated(
    checkpoint: str | Path | Checkpoint,
    plan: Plan,
    data: str | Path | CalibrationData,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    command: str = "",
    init: str = "tr-als",
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
        init: how candidates are found.
        options: of `calibrate`: `refine_steps`, `head`, `readout`, `data_options`, `progress`, ...

    Returns:
        The artifact, not yet written: cores, corrected biases, every other tensor as it was.

    Raises:
        InputFileError: checkpoint or data cannot be read, or do not fit each other.
        UsageError: the plan matches no weight, or nothing that is planned can be fed.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    checkpoint.check_compressible()
    plans = plan.resolve(distinct_matrices(checkpoint).matrices)
    found = calibrate(checkpoint, plans, data, seed=seed, init=init, **options)
    step = Step(
        verb="decompose",
        command=command,
        seed=seed,
        version=__version__,
        settings={"calibration": dict(found.facts)},
    )
    return assemble(checkpoint, found.weights, step, dtype=dtype, changed=found.changed)
