"""A dense checkpoint in the user's own network, on their own batches: both named as `package.module:function`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from trcompress.calibration.file_network import file_network
from trcompress.calibration.live import LiveNetwork
from trcompress.checkpoint import Checkpoint
from trcompress.data.dataset import DataSet
from trcompress.data.load import kind_of, load_data
from trcompress.data.user_batches import call_loader
from trcompress.network.batches import batch_fits, default_forward
from trcompress.network.calibration_data import CalibrationData
from trcompress.network.model_file import of_checkpoint
from trcompress.network.user_model import UserNetwork, load_user_model
from trcompress.util.user_code import faults_told

AT_ONCE, MOST = 64, 4096
"""Sequences in a batch, and of all batches, where the data comes from a file."""


def live_network(
    checkpoint: Checkpoint,
    data: str | Path | CalibrationData,
    *,
    model: str | None = None,
    head: str | None = None,
    compare: str | None = None,
    outputs: str | None = None,
    seed: int = 0,
    data_options: Mapping[str, Any] | None = None,
) -> LiveNetwork:
    """Record a checkpoint's network on data: the user's own network, or what the file alone describes.

    Args:
        checkpoint: the dense network.
        data: its inputs; `package.module:loader` gives a data set, or batches as a DataLoader does.
        model: `package.module:factory` of the user's network; this runs the user's code.
        head: see `file_network`, as for the others.
        compare: see `file_network`.
        outputs: see `file_network`.
        seed: of everything random.
        data_options: of `trcompress.data.load_data`, or keyword arguments of the loader.

    Raises:
        UserCodeError: the user's code raised something.
        InputFileError: the checkpoint does not fit the network, or the data does not.
    """
    if model is None or isinstance(data, CalibrationData):
        settings: dict[str, Any] = {"head": head, "compare": compare, "outputs": outputs, "seed": seed}
        return file_network(checkpoint, data, **settings, data_options=data_options)
    module = load_user_model(of_checkpoint(checkpoint, checkpoint.path), model).eval()
    batches, forward = user_batches(data, dict(data_options or {}))
    live = LiveNetwork.of(module, batches, forward=telling(forward, model), outputs=outputs, seed=seed)
    return replace(live, origin={"data": str(data), "model": model})


@dataclass(frozen=True)
class _Rows:
    """A data set's training rows (or what it has), as batches."""

    data: DataSet

    def __iter__(self) -> Iterator[Any]:
        part = self.data.splits.get("train") or next(iter(self.data.splits.values()))
        for start in range(0, min(len(part), MOST), AT_ONCE):
            rows = np.arange(start, min(len(part), start + AT_ONCE))
            x, _, lengths = part.batch(rows)
            yield {"x": x, "lengths": lengths, **part.more(rows)}


def user_batches(
    data: str | Path, options: dict[str, Any]
) -> tuple[Iterable[Any], Callable[[nn.Module, Any], Any]]:
    """Open batches for a user's network, of a data file or of a loader of theirs, and say how it is run on them."""
    if kind_of(data) == "factory":
        options.pop("allow_code", None)
        given = call_loader(str(data), options)
        if not isinstance(given, DataSet):
            return given, default_forward
        return _Rows(given), _named_forward
    return _Rows(load_data(data, **options)), _named_forward


def _named_forward(model: nn.Module, batch: Any) -> Any:
    device = next(model.parameters()).device
    inputs = {name: value if value is None else value.to(device) for name, value in batch.items()}
    return UserNetwork(model)(inputs.pop("x"), inputs.pop("lengths"), **inputs)


def telling(forward: Callable[[nn.Module, Any], Any], spec: str) -> Callable[[nn.Module, Any], Any]:
    """Tell the faults of a user's network by their last frame, and what it cannot be called with by its sizes."""

    def told(model: nn.Module, batch: Any) -> Any:
        advice = f"; let the loader give what the network of {spec} takes"
        with batch_fits(model, batch, advice), faults_told(f"the network of {spec}", own_only=True):
            return forward(model, batch)

    return told
