"""Walk down the ladder of roundings until the file is small enough, measuring the network at every rung."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from trcompress.artifact.storage import Stored
from trcompress.passes.alike import alike
from trcompress.passes.damage import Damage
from trcompress.passes.ladder import Measured, moves
from trcompress.passes.levels import STEPS, LevelChoice, Placed, choices_of
from trcompress.passes.matrix_moments import MatrixMoments
from trcompress.util.progress import Progress

FileSize = Callable[[nn.Module, Mapping[str, Stored]], int]
"""Bytes of the file that holds a network with some of its tensors in few bits."""


EXACT_BELOW = 100_000
"""Bytes of tensors below which the file is asked for its size at every rung: its header counts, and its codecs."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Args:
        nbytes: of the file; estimated but for the last, where it is large.
        damage: at the outputs, of everything done so far together.
        what: what was done last.
    """

    nbytes: int
    damage: float
    what: str


@dataclass(frozen=True)
class Row:
    """What becomes of one tensor.

    Args:
        name: in the network's state; "biases and small tensors" for those.
        level: how it is stored.
        bytes_before: as it was.
        bytes_after: as stored, entropy-coded where the file is.
        damage: at the outputs, of this alone, or of those that took the level with it.
    """

    name: str
    level: str
    bytes_before: int
    bytes_after: int
    damage: float

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows of it, under `HEAD`."""
        return self.name, f"{self.bytes_before:,}", f"{self.bytes_after:,}", f"{self.damage:.3g}", self.level


HEAD = ("tensor", "bytes before", "after", "damage alone", "stored as")


@dataclass(frozen=True)
class Walk:
    """Where a walk ended.

    Args:
        rungs: from the first to the last.
        rows: one per tensor.
        state: the network's tensors at the end, by name.
        stored: those that a file holds in few bits.
        reached: whether the file is small enough.
    """

    rungs: tuple[Rung, ...]
    rows: tuple[Row, ...]
    state: Mapping[str, Tensor]
    stored: Mapping[str, Stored]
    reached: bool

    @property
    def nbytes(self) -> int:
        """Of the file at the end."""
        return self.rungs[-1].nbytes

    @property
    def damage(self) -> float:
        """At the end."""
        return self.rungs[-1].damage


def walk_down(
    model: nn.Module,
    seen: MatrixMoments,
    damage: Damage,
    target_bytes: int,
    file_size: FileSize,
    *,
    packed: bool,
    kinds: Sequence[str],
    coarsest: float = STEPS[-1],
    name: str = "what is exact",
    progress: Progress | None = None,
) -> Walk:
    """Choose how every tensor is stored so that the file takes at most `target_bytes`, cheapest damage first.

    Args:
        model: the network; as it was at the end.
        seen: moments of what its matrices multiply.
        damage: measures it.
        target_bytes: of the whole file.
        file_size: tells it.
        packed: entropy-code integers.
        kinds: storage types that are allowed.
        coarsest: of the levels' distances that are tried where integers are entropy-coded.
        name: of the first rung: what was done to the network before.
        progress: called with (what, fraction done).
    """
    with Placed(model, choices_of(model, seen, packed=packed, kinds=kinds, coarsest=coarsest)) as placed:
        groups = alike(tuple(placed.choices.values()))
        measured = _measure_all(placed, groups, damage, progress)
        start, steps = moves(measured)
        descent = _Descent(placed, groups, damage, file_size)
        descent.begin(start, name)
        for move in steps:
            if descent.fits(target_bytes):
                break
            descent.take(move.choice, move.level)
        if descent.fits(target_bytes):
            descent.spend(target_bytes, measured)
        rungs = descent.ended()
        alone = {name: measured[group] for group, names in groups.items() for name in names}
        rows = tuple(_row(placed.choices[name], alone[name], level) for name, level in placed.levels.items())
        state = {key: value.detach().clone() for key, value in model.state_dict().items()}
        return Walk(rungs, rows, state, placed.stored(), rungs[-1].nbytes <= target_bytes)


@torch.no_grad()
def apply_(model: nn.Module, walk: Walk) -> None:
    """Give a network the values of a walk's end."""
    for key, value in model.state_dict().items():
        value.copy_(walk.state[key])


Groups = Mapping[str, Sequence[str]]
"""Names of the choices that take one level together, by what the ladder calls them."""


def _measure_all(
    placed: Placed, groups: Groups, damage: Damage, progress: Progress | None
) -> dict[str, list[Measured]]:
    """The bytes and the damage of every level of every group, alone."""
    found: dict[str, list[Measured]] = {}
    for done, (name, members) in enumerate(groups.items()):
        if progress:
            progress(f"rounding {name}", done / len(groups))
        found[name] = []
        for place in range(len(placed.choices[members[0]].levels)):
            placed.put_all(members, place)
            nbytes = sum(placed.choices[one].levels[place].nbytes for one in members)
            found[name].append(Measured(place, nbytes, damage.of(placed.model) if place else 0.0))
        placed.put_all(members, 0)
    return found


class _Descent:
    """The rungs so far: a small file is asked for its bytes at each, a large one near the target."""

    def __init__(self, placed: Placed, groups: Groups, damage: Damage, file_size: FileSize) -> None:
        self._placed, self._groups, self._damage, self._file_size = placed, groups, damage, file_size
        self._beside = 0
        self.rungs: list[Rung] = []

    def begin(self, start: Mapping[str, int], name: str) -> None:
        """Take the levels that do no damage, and name what was there before them."""
        for group, level in start.items():
            self._placed.put_all(self._groups[group], level)
        self._ask()
        self._note(name)

    def take(self, name: str, level: int) -> None:
        """Move one group to a level."""
        self._placed.put_all(self._groups[name], level)
        self._note(f"{name} -> {self._placed.choices[self._groups[name][0]].levels[level].name}")

    def fits(self, target_bytes: int) -> bool:
        """Whether the file is small enough; asked of the file where the count says so."""
        if self.rungs[-1].nbytes > target_bytes:
            return False
        self._ask()
        self.rungs[-1] = replace(self.rungs[-1], nbytes=self._placed.nbytes + self._beside)
        return self.rungs[-1].nbytes <= target_bytes

    def spend(self, target_bytes: int, measured: Mapping[str, Sequence[Measured]]) -> None:
        """Give bytes that are left back to the choices whose damage they lessen most."""
        refused: set[tuple[str, int]] = set()
        while better := self._upgrades(target_bytes - self.rungs[-1].nbytes, measured, refused):
            _, name, level = max(better)
            before, last = self._level(name), self.rungs[-1]
            self.take(name, level)
            if not self.fits(target_bytes) or self.rungs[-1].damage > last.damage:
                refused.add((name, level))
                self._placed.put_all(self._groups[name], before)
                self.rungs[-1:] = []

    def ended(self) -> tuple[Rung, ...]:
        """All rungs; the last as the file really is."""
        self.rungs[-1] = replace(self.rungs[-1], nbytes=self._exact(), damage=self._damage.of(self._placed.model))
        return tuple(self.rungs)

    def _upgrades(
        self, left: int, measured: Mapping[str, Sequence[Measured]], refused: set[tuple[str, int]]
    ) -> list[tuple[float, str, int]]:
        return [
            (now.damage - one.damage, name, one.level)
            for name, levels in measured.items()
            for now in (levels[self._level(name)],)
            for one in levels
            if 0 < one.nbytes - now.nbytes <= left and one.damage < now.damage and (name, one.level) not in refused
        ]

    def _level(self, name: str) -> int:
        return self._placed.levels[self._groups[name][0]]

    def _exact(self) -> int:
        return self._file_size(self._placed.model, self._placed.stored())

    def _ask(self) -> None:
        """Ask the file what it takes beside the tensors."""
        self._beside = self._exact() - self._placed.nbytes

    def _note(self, what: str) -> None:
        if self._placed.nbytes < EXACT_BELOW:
            self._ask()
        self.rungs.append(Rung(self._placed.nbytes + self._beside, self._damage.of(self._placed.model), what))


def _row(choice: LevelChoice, measured: Sequence[Measured], level: int) -> Row:
    at = choice.levels[level]
    return Row(choice.name, at.name, choice.levels[0].nbytes, at.nbytes, measured[level].damage)
