"""How coarsely each tensor of a live network may be stored: the levels, their bytes, and putting them in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trcompress.artifact.packing import CODECS
from trcompress.artifact.storage import Stored
from trcompress.layers import is_recurrent, recurrent_kind
from trcompress.passes.matrix_moments import MatrixMoments
from trcompress.passes.moments import Moments
from trcompress.passes.rounding import round_matrix

STEPS = (0.06, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Distances between levels, in root mean squares of a row, that are tried where integers are entropy-coded."""

SMALL = 256
"""Matrices of fewer values stay with the biases: in halves at most."""

SMALL_CORE = 32
"""The same for cores of a ring, where many of them are all that there is of a matrix."""

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Level:
    """One way to store one tensor, or the small tensors together.

    Args:
        name: "as it is", "float16", "int8", "int8 in steps of 0.3", "int4".
        nbytes: what is stored, entropy-coded where the file will be.
        stored: by the name of the tensor; empty where they stay as they are.
        shift: what is added to the bias.
    """

    name: str
    nbytes: int
    stored: Mapping[str, Stored]
    shift: Tensor | None = None


@dataclass(frozen=True)
class LevelChoice:
    """One tensor, or the small tensors together, with every level they may have.

    Args:
        name: of the tensor; "biases and small tensors" for those.
        keys: names in the network's state.
        bias: name of the bias that takes the mean of what rounding loses, if there is one.
        levels: from the most bytes to the fewest.
    """

    name: str
    keys: tuple[str, ...]
    bias: str | None
    levels: tuple[Level, ...]


REST = "biases and small tensors"


def choices_of(
    model: nn.Module, seen: MatrixMoments, *, packed: bool, kinds: Sequence[str], coarsest: float = STEPS[-1]
) -> list[LevelChoice]:
    """List the levels of every floating-point tensor of a network.

    Args:
        model: the network.
        seen: moments of what its matrices multiply.
        packed: whether integers will be entropy-coded.
        kinds: storage types that are allowed, keys of `STORAGE`.
        coarsest: of `STEPS` that are tried.
    """
    state = {key: value for key, value in model.state_dict().items() if value.is_floating_point() and value.numel()}
    first = _first_names(state)
    matrices = [key for key in first if state[key].dim() > 1 and state[key].numel() >= _least(key, packed)]
    found = []
    for key in matrices:
        bias = _bias_beside(key, state, model)
        levels = _matrix_levels(key, state[key], seen.moments.get(key), bias is not None, packed, kinds, coarsest)
        found.append(LevelChoice(key, first[key], bias, tuple(levels)))
    rest = tuple(key for name in first if name not in matrices for key in first[name])
    if rest:
        found.append(LevelChoice(REST, rest, None, tuple(_rest_levels({key: state[key] for key in rest}, kinds))))
    return found


def _least(key: str, packed: bool) -> int:
    """Entropy-coded integers share one tensor, others take some 150 bytes of the file's table of contents each."""
    return SMALL_CORE if packed and ".core." in key else SMALL


def _first_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Names of every tensor by its first name: tied tensors have several."""
    groups: dict[tuple[int, torch.Size], list[str]] = {}
    for key, value in state.items():
        groups.setdefault((value.data_ptr(), value.shape), []).append(key)
    return {names[0]: tuple(names) for names in groups.values()}


def _bias_beside(key: str, state: Mapping[str, Tensor], model: nn.Module) -> str | None:
    """The bias that takes what a matrix loses; where both biases of a layer are summed, the input's takes all."""
    prefix, dot, leaf = key.rpartition(".")
    if not leaf.startswith("weight") or leaf.startswith("weight_hr"):
        return None
    owner = model.get_submodule(prefix)
    if leaf.startswith("weight_hh") and is_recurrent(owner) and recurrent_kind(owner).sums_biases:
        leaf = leaf.replace("weight_hh", "weight_ih")
    bias = prefix + dot + leaf.replace("weight", "bias", 1)
    return bias if bias in state and state[bias].dim() == 1 and len(state[bias]) == len(state[key]) else None


def _matrix_levels(
    key: str,
    value: Tensor,
    moments: Moments | None,
    has_bias: bool,
    packed: bool,
    kinds: Sequence[str],
    coarsest: float,
) -> Iterator[Level]:
    yield Level(AS_IT_IS, value.nbytes, {})
    for kind in kinds:
        if kind in ("float16", "bfloat16"):
            if value.dtype.itemsize > 2:
                stored = Stored.of(value, kind)
                yield Level(kind, _bytes(stored, packed), {key: stored})
        elif not (packed and kind == "int4"):
            found = round_matrix(value, kind, moments, centred=has_bias)
            yield Level(kind, _bytes(found.stored, packed), {key: found.stored}, found.shift)
    if packed and "int8" in kinds:
        for step in (one for one in STEPS if one <= coarsest):
            found = round_matrix(value, "int8", moments, step, centred=has_bias)
            name = f"int8 in steps of {step:g}"
            yield Level(name, _bytes(found.stored, packed), {key: found.stored}, found.shift)


def _rest_levels(tensors: Mapping[str, Tensor], kinds: Sequence[str]) -> Iterator[Level]:
    yield Level(AS_IT_IS, sum(one.nbytes for one in tensors.values()), {})
    for kind in kinds:
        if kind in ("float16", "bfloat16"):
            stored = {key: Stored.of(one, kind) for key, one in tensors.items() if one.dtype.itemsize > 2}
            kept = sum(one.nbytes for key, one in tensors.items() if key not in stored)
            yield Level(kind, kept + sum(one.nbytes for one in stored.values()), stored)


def _bytes(stored: Stored, packed: bool) -> int:
    """Bytes in the file; of entropy-coded codes, what the plainest codec makes of them."""
    if not packed:
        return stored.nbytes
    codes = [part for suffix, part in stored.parts.items() if suffix not in ("", "scale")]
    coded = sum(len(CODECS["huffman"][0](one.numpy().tobytes())) for one in codes)
    return coded + sum(part.nbytes for part in stored.parts.values()) - sum(one.nbytes for one in codes)


class Placed:
    """A network whose tensors are held at chosen levels; as a context it gives them back as they were.

    Args:
        model: changed in place.
        choices: of its tensors, all at their first level.
    """

    def __init__(self, model: nn.Module, choices: Sequence[LevelChoice]) -> None:
        self.model = model
        self.choices = {one.name: one for one in choices}
        self.levels = dict.fromkeys(self.choices, 0)
        self._state = model.state_dict()
        self._before = {key: value.detach().clone() for key, value in self._state.items()}
        self._matrices: dict[str, list[str]] = {}
        for one in choices:
            if one.bias is not None:
                self._matrices.setdefault(one.bias, []).append(one.name)

    @torch.no_grad()
    def put(self, name: str, level: int) -> None:
        """Hold a choice's tensors at a level, and its bias at what the level asks."""
        self.levels[name] = level
        choice, state = self.choices[name], self._state
        stored = choice.levels[level].stored
        for key in choice.keys:
            held = stored.get(key if name == REST else choice.keys[0])
            state[key].copy_(self._before[key] if held is None else held.expand())
            self._shift(state[key], key)
        if choice.bias is not None:
            state[choice.bias].copy_(self._before[choice.bias])
            self._shift(state[choice.bias], choice.bias)

    def put_all(self, names: Sequence[str], level: int) -> None:
        """Hold the tensors of several choices at one level; see `put`."""
        for name in names:
            self.put(name, level)

    def stored(self) -> dict[str, Stored]:
        """Collect what a file stores in few bits, by name, and hold the small tensors to it."""
        state, found = self.model.state_dict(), {}
        for name, choice in self.choices.items():
            level = choice.levels[self.levels[name]]
            for key in choice.keys:
                if name != REST and level.stored:
                    found[key] = level.stored[choice.keys[0]]
                elif key in level.stored:  # a bias has moved since
                    found[key] = Stored.of(state[key], level.stored[key].kind)
                    with torch.no_grad():
                        state[key].copy_(found[key].expand())
        return found

    @property
    def nbytes(self) -> int:
        """Of all tensors at their levels."""
        return sum(one.levels[self.levels[name]].nbytes for name, one in self.choices.items())

    def __enter__(self) -> Placed:
        return self

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for key, value in self.model.state_dict().items():
            value.copy_(self._before[key])

    def _shift(self, bias: Tensor, key: str) -> None:
        """Add what the levels of the matrices beside a bias ask."""
        for name in self._matrices.get(key, ()):
            shift = self.choices[name].levels[self.levels[name]].shift
            if shift is not None:
                bias += shift.to(bias)
