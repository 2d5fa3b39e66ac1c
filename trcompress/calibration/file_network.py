"""A dense checkpoint on a data file as a live network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trcompress.calibration.live import LiveNetwork
from trcompress.checkpoint import Checkpoint
from trcompress.errors import one_of
from trcompress.network.calibration_data import CalibrationData
from trcompress.network.from_file import FileNetwork
from trcompress.network.model_file import of_checkpoint
from trcompress.network.outputs import KINDS_OF_OUTPUT, Outputs
from trcompress.network.read_calibration import read_calibration

FITTED_AT_ONCE, HELD_OUT_AT_ONCE = 128, 256
"""Examples in a batch: one to learn from, one to compare on."""


def file_network(
    checkpoint: Checkpoint,
    data: str | Path | CalibrationData,
    *,
    head: str | None = None,
    compare: str | None = None,
    outputs: str | None = None,
    seed: int = 0,
    data_options: Mapping[str, Any] | None = None,
) -> LiveNetwork:
    """Build the network that a file describes, and record it on the inputs in another file.

    Args:
        checkpoint: the dense network.
        data: its inputs; labels are never used. See `read_calibration`.
        head: key of the linear layer over the last stack; None finds it by its shape, "" compares hidden states.
        compare: "final" compares the last state of a sequence, "every" each step; None decides by the inputs.
        outputs: "scores" where the head gives class scores, "values" where it gives numbers, "states" to compare
            hidden states; None: class scores only where the head has one row for each token.
        seed: of everything random.
        data_options: of `trcompress.data.load_data`.

    Raises:
        InputFileError: the data does not fit the network.
        UsageError: `head`, `compare` or `outputs` does not exist, or nothing tells what feeds the network.
    """
    file = of_checkpoint(checkpoint, checkpoint.path)
    file.refuse_unknown()
    if not isinstance(data, CalibrationData):
        data = read_calibration(data, file, **dict(data_options or {}))
    model = FileNetwork(file, data, "" if outputs == "states" else head, compare)
    fitted, held_out = data.divide(seed)
    compared = model.outputs
    if outputs not in (None, "states"):
        compared = Outputs(one_of("outputs", str(outputs), KINDS_OF_OUTPUT), compared.select)
    shared = {key for group in checkpoint.shared for key in group}
    live = LiveNetwork.of(
        model,
        data.batches(fitted, FITTED_AT_ONCE),
        held_out=data.batches(held_out, HELD_OUT_AT_ONCE),
        outputs=compared,
        names=model.weights,
        tied={name for key, name in model.weights.items() if key in shared},
        seed=seed,
    )
    origin: dict[str, Any] = {"data": data.name, "data_sha256": data.sha256}
    origin |= {"examples_fitted": len(fitted), "examples_held_out": len(held_out)}
    notes = (*model.notes, *live.recording.notes)
    return replace(live, origin=origin, recording=replace(live.recording, notes=notes))
