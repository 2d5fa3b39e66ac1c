"""Train what a file stores in few bits: forward and backward see rounded values, the optimizer moves the others.

The gradient with respect to rounded values is applied to the values themselves (straight-through estimation;
Bengio et al. 2013, arXiv:1308.3432), and they are rounded again at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from trcompress.artifact.file import Artifact
from trcompress.artifact.storage import Integers, Rounding, Stored, as_rows, storage
from trcompress.artifact.write import file_bytes
from trcompress.model.kinds import KINDS
from trcompress.network.classifier import Classifier

COARSER = (1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5)
"""Factors of the levels' distance that are tried until a file is small enough: training moves entropy a little."""

REFRESH = 16
"""Steps for which the scales of integers are kept."""


class StraightThrough:
    """The tensors of a network that are stored in few bits.

    Args:
        module: the network.
        storage: how tensors are rounded, by name in its state; empty leaves training as it is.
    """

    def __init__(self, module: nn.Module, storage: Mapping[str, Rounding]) -> None:
        known = dict(module.named_parameters())
        self._parameters = {name: known[name] for name in storage if name in known}
        self._storage, self._scales = dict(storage), dict[str, Tensor]()
        self._steps = 0

    def begin_epoch(self) -> None:
        """Find all scales anew at the next step: a run that goes on from a saved epoch then does the same."""
        self._steps = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Hold rounded values while one batch runs forwards and backwards."""
        if self._steps % REFRESH == 0:
            self._scales.clear()
        self._steps += 1
        with self._held({name: self._rounded(name, one.data) for name, one in self._parameters.items()}):
            yield

    @contextmanager
    def as_stored(self) -> Iterator[dict[str, Stored]]:
        """Hold the very values that a file would; yields what it stores, by name."""
        stored = {name: self._storage[name].of(one.data) for name, one in self._parameters.items()}
        with self._held({name: one.expand() for name, one in stored.items()}):
            yield stored

    @contextmanager
    def _held(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        own = {name: one.data for name, one in self._parameters.items()}
        for name, one in self._parameters.items():
            one.data = values[name].to(one.device)
        try:
            yield
        finally:
            for name, one in self._parameters.items():
                one.data = own[name]

    @torch.no_grad()
    def _rounded(self, name: str, values: Tensor) -> Tensor:
        how = self._storage[name]
        grid = storage(how.kind)
        if not isinstance(grid, Integers):
            return how.of(values).expand()
        rows = as_rows(values)
        if name not in self._scales:
            self._scales[name] = grid.scales(rows, tries=8) if how.step is None else grid.stepped(rows, how.step)
        scale = self._scales[name]
        return grid.values(grid.codes(rows, scale), scale).reshape(values.shape)


def roundings(student: Classifier, artifact: Artifact, rounding: str) -> dict[str, Rounding]:
    """Say which tensors of a network are trained in few bits, and how they are rounded.

    Args:
        student: the network.
        artifact: the file it comes from.
        rounding: "kept", "int8", "int4" or "none"; see `FinetuneSettings`.
    """
    if rounding == "none":
        return {}
    kept = {
        name: artifact.stored[key].rounding(artifact.packed)
        for name, key in student.keys.items()
        if key in artifact.stored
    }
    if rounding == "kept":
        return kept
    matrices = [name for name, one in student.module.named_parameters() if one.dim() > 1]
    return kept | {name: Rounding(rounding) for name in matrices if name in student.keys}


@torch.no_grad()
def round_as_stored(student: Classifier, artifact: Artifact, most_bytes: int | None = None) -> dict[str, Stored]:
    """Give a trained network the values that its file will hold.

    Args:
        student: the network.
        artifact: the file it comes from.
        most_bytes: that the file may take: entropy-coded integers become coarser until it does, and what is not
            rounded becomes float16 where that is not enough.

    Returns:
        What the file stores in few bits, by key.
    """
    if artifact.packed:
        _merge_biases(student, artifact)
    storage = roundings(student, artifact, "kept") | dict(student.storage)
    state, keys = student.module.state_dict(), student.keys
    wide = {name: Rounding("float16") for name, one in state.items() if name in keys and one.dtype.itemsize > 2}
    halves = {name: one for name, one in wide.items() if state[name].is_floating_point()} | storage
    factors = COARSER if any(how.step is not None for how in storage.values()) else COARSER[:1]
    tries = [(chosen, coarser) for chosen in (storage, halves) for coarser in factors]
    found: dict[str, Stored] = {}
    for chosen, coarser in tries:
        found = artifact.stored | _rounded(student, artifact, chosen, coarser)
        if most_bytes is None or _file_bytes(student, artifact, found) <= most_bytes:
            break
    for name in keys:
        if keys[name] in found:
            state[name].copy_(found[keys[name]].expand())
    return found


def _rounded(
    student: Classifier, artifact: Artifact, storage: Mapping[str, Rounding], coarser: float
) -> dict[str, Stored]:
    state, keys = student.module.state_dict(), student.keys
    own = {name: state[name].to("cpu", artifact.tensors[keys[name]].dtype) for name in storage}
    return {keys[name]: _coarser(how, coarser).of(own[name]) for name, how in storage.items()}


def _file_bytes(student: Classifier, artifact: Artifact, stored: Mapping[str, Stored]) -> int:
    state = student.module.state_dict()
    others = {key: state[name].detach().cpu() for name, key in student.keys.items() if name in state}
    tensors = artifact.tensors | others | {key: one.expand() for key, one in stored.items()}
    return file_bytes(replace(artifact, tensors=tensors, stored=dict(stored)))


def _merge_biases(student: Classifier, artifact: Artifact) -> None:
    """Put the sum of two biases into the first again, where the file held it so: training moves either."""
    keys = {key: name for name, key in student.keys.items()}
    state = student.module.state_dict()
    for layer in artifact.header.layers:
        pair = [layer.keys.get(role, "") for role in ("bias_ih", "bias_hh")]
        held = artifact.tensors.get(pair[1])
        if (
            KINDS[layer.kind].sums_biases
            and held is not None
            and not held.any()
            and all(key in keys for key in pair)
        ):
            first, second = (state[keys[key]] for key in pair)
            first += second
            second.zero_()


def _coarser(how: Rounding, factor: float) -> Rounding:
    return how if how.step is None else replace(how, step=how.step * factor)
