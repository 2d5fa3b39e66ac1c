"""Batches of the user's own loader: called, checked, and, for a network that a file describes, put into arrays.

A batch for such a network is what a data file holds, a part at a time:

    x, (x, labels), (x, lengths, labels)      x (B, T, I) numbers, or (B, T) tokens
    {"x": x, "length": lengths}               or one x_<stack> a stack: every name that a data file may use
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trcompress.data.dataset import DataSet
from trcompress.data.factory import call_factory
from trcompress.errors import InputFileError, UserCodeError
from trcompress.util.user_code import faults_told

MOST_SEQUENCES = 22_000
"""Sequences that are read of a loader, at most."""
MOST_BYTES = 1 << 30
"""Bytes of them, at most: loaders may have no end."""
LENGTHS = ("length", "lengths")
LABELS = frozenset(("label", "labels", "target", "targets", "y", "label_ids"))
"""Names in a batch that are never a network's input unless it requires them."""


def call_loader(spec: str, options: dict[str, Any]) -> DataSet | Iterable[Any]:
    """Call `package.module:loader` with the options as keyword arguments; this runs the user's code.

    Raises:
        UsageError: there is no such function, or it does not take these options.
        UserCodeError: it raised something, or gave what cannot be gone through.
    """
    found = call_factory(spec, options, "a loader of batches")
    if isinstance(found, (str, bytes)) or not isinstance(found, (DataSet, Iterable)):
        raise UserCodeError(
            f"{spec} must return batches that can be gone through, as a DataLoader, or a DataSet: "
            f"got {type(found).__name__}"
        )
    return found if isinstance(found, DataSet) else ToldBatches(found, spec)


class ToldBatches:
    """Batches of the user's, whose faults are told with the line that raised them.

    Args:
        batches: theirs.
        spec: how the user named them.
    """

    def __init__(self, batches: Iterable[Any], spec: str) -> None:
        self._batches, self.spec = batches, spec

    def __iter__(self) -> Iterator[Any]:
        with faults_told(self.spec):
            steps = iter(self._batches)
        while True:
            with faults_told(self.spec):
                try:
                    batch = next(steps)
                except StopIteration:
                    return
            yield batch


def arrays_of(batches: Iterable[Any], name: str) -> dict[str, np.ndarray]:
    """Put batches under each other, as a data file would hold them; sequences are padded to the longest.

    Args:
        batches: see the rule above; labels are dropped.
        name: for messages.

    Raises:
        InputFileError: no batch, or one that is of none of these forms.

    Example:
        >>> found = arrays_of([(torch.ones(2, 3, 4), None), (torch.ones(1, 5, 4), None)], "mine")
        >>> found["x"].shape, found["length"].tolist()
        ((3, 5, 4), [3, 3, 5])
    """
    parts: dict[str, list[np.ndarray]] = {}
    rows = size = 0
    for number, batch in enumerate(batches):
        named = _with_lengths(_named(batch, f"{name}, batch {number}"))
        if number and set(named) != set(parts):
            held, others = ", ".join(named), ", ".join(parts)
            raise InputFileError(
                f"{name}: every batch must hold the same parts: batch {number} {held}, not {others}"
            )
        for key, value in named.items():
            parts.setdefault(key, []).append(value)
        rows += max(len(one) for one in named.values() if one.ndim)
        size += sum(one.nbytes for one in named.values())
        if rows >= MOST_SEQUENCES or size >= MOST_BYTES:
            break
    if not parts:
        raise InputFileError(f"{name}: the calibration data must hold at least one batch: it gave none")
    return {key: _joined(values, f"{name}: {key}") for key, values in parts.items()}


def _named(batch: Any, where: str) -> dict[str, np.ndarray]:
    if isinstance(batch, Mapping):
        kept = {key: value for key, value in batch.items() if str(key) not in LABELS and value is not None}
        return {
            "length" if key in LENGTHS else str(key): _array(value, f"{where}: {key}")
            for key, value in kept.items()
        }
    if isinstance(batch, (tuple, list)) and batch:
        if len(batch) == 3:
            return {"x": _array(batch[0], where), "length": _array(batch[1], f"{where}: lengths")}
        if len(batch) <= 2:
            return {"x": _array(batch[0], where)}
    if isinstance(batch, (Tensor, np.ndarray)):
        return {"x": _array(batch, where)}
    raise InputFileError(
        f"{where} must be x, (x, labels), (x, lengths, labels) or a dict with the names of a data file: got "
        f"{type(batch).__name__}; a network that takes more is named with `model`"
    )


def _array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, Tensor):
        wide = value.detach().cpu()
        return (wide.float() if wide.dtype in (torch.bfloat16, torch.float16) else wide).numpy()
    found = np.asarray(value)
    if found.dtype == object:
        raise InputFileError(f"{where} must be a tensor or an array: got {type(value).__name__}")
    return found


def _with_lengths(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Say how long sequences are where the batch does not: batches of other lengths are padded."""
    found = dict(named)
    for key, value in named.items():
        length = "length" if key == "x" else key.replace("x_", "length_", 1)
        if (key == "x" or key.startswith("x_")) and value.ndim >= 2:
            found.setdefault(length, np.full(len(value), value.shape[1], dtype=np.int64))
    return found


def _joined(values: list[np.ndarray], where: str) -> np.ndarray:
    if not values[0].ndim:
        return values[0]  # the name of a stack or an embedding
    rank = values[0].ndim
    if any(one.ndim != rank or one.shape[2:] != values[0].shape[2:] for one in values):
        shapes = ", ".join(str(one.shape) for one in values[:4])
        raise InputFileError(f"{where} must be of one width in every batch: got {shapes}")
    if rank == 1:
        return np.concatenate(values)
    longest = max(one.shape[1] for one in values)
    pads = [(0, 0)] * (rank - 2)
    return np.concatenate([np.pad(one, [(0, 0), (0, longest - one.shape[1]), *pads]) for one in values])
