"""Train what a file stores in few bits: forward and backward see rounded values, the optimizer moves the others.

The gradient with respect to rounded values is applied to the values themselves (straight-through estimation;
Bengio et al. 2013, arXiv:1308.3432), and they are rounded again at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trcompress.artifact.file import Artifact
from trcompress.artifact.storage import Integers, Stored, as_rows, storage
from trcompress.network.classifier import Classifier

REFRESH = 16
"""Steps for which the scales of integers are kept."""


class StraightThrough:
    """The tensors of a network that are stored in few bits.

    Args:
        module: the network.
        kinds: storage type by name in its state; empty leaves training as it is.
    """

    def __init__(self, module: nn.Module, kinds: Mapping[str, str]) -> None:
        known = dict(module.named_parameters())
        self._parameters = {name: known[name] for name in kinds if name in known}
        self._kinds, self._scales = dict(kinds), dict[str, Tensor]()
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
        stored = {name: Stored.of(one.data, self._kinds[name]) for name, one in self._parameters.items()}
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
        grid = storage(self._kinds[name])
        if not isinstance(grid, Integers):
            return Stored.of(values, grid.kind).expand()
        rows = as_rows(values)
        if name not in self._scales:
            self._scales[name] = grid.scales(rows, tries=8)
        scale = self._scales[name]
        return grid.values(grid.codes(rows, scale), scale).reshape(values.shape)


def storage_kinds(student: Classifier, artifact: Artifact, rounding: str) -> dict[str, str]:
    """Say which tensors of a network are trained in few bits, and how they are stored.

    Args:
        student: the network.
        artifact: the file it comes from.
        rounding: "kept", "int8", "int4" or "none"; see `FinetuneSettings`.
    """
    if rounding == "none":
        return {}
    kept = {name: artifact.stored[key].kind for name, key in student.keys.items() if key in artifact.stored}
    if rounding == "kept":
        return kept
    matrices = [name for name, one in student.module.named_parameters() if one.dim() > 1]
    return kept | {name: rounding for name in matrices if name in student.keys}


@torch.no_grad()
def round_as_stored(student: Classifier, artifact: Artifact) -> dict[str, Stored]:
    """Give a trained network the values that its file will hold.

    Returns:
        What the file stores in few bits, by key.
    """
    kinds = storage_kinds(student, artifact, "kept") | dict(student.storage)
    state, found = student.module.state_dict(), dict(artifact.stored)
    for name, kind in kinds.items():
        own = artifact.tensors[student.keys[name]].dtype
        found[student.keys[name]] = stored = Stored.of(state[name].to("cpu", own), kind)
        state[name].copy_(stored.expand())
    return found
