"""The dense network as far as a checkpoint tells it: recurrent layers, what feeds each, and how to run them.

A `Unit` is one layer of one stack, both directions together. Units form a chain or a tree: a unit is fed by data,
or by the unit below it; a stack may start from the last state of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor, nn

from trcompress.calibration.reading import CalibrationData
from trcompress.calibration.sequences import Sequences, flat_rows, on_rows, packed
from trcompress.errors import InputFileError, UsageError
from trcompress.layers.stacks import build_stack, load_stack
from trcompress.model.layer import Layer
from trcompress.model.weight_plan import WeightPlan
from trcompress.network.find_head import find_chain, input_size, output_size
from trcompress.network.model_file import ModelFile

BATCH_VALUES = 1 << 24
"""Numbers of input that are read at once."""


@dataclass(frozen=True)
class Unit:
    """One recurrent layer, both directions together.

    Args:
        name: stack and depth, `rnn.0`.
        stack: the stack it is part of.
        layers: its directions, numbered as if it were the only layer of its stack.
        below: the unit whose output it takes; None where data feeds it.
        depth: its place in the stack.
    """

    name: str
    stack: str
    layers: tuple[Layer, ...]
    below: str | None
    depth: int

    @property
    def weights(self) -> tuple[str, ...]:
        """Keys of its input-to-hidden weights, forward first."""
        return tuple(layer.keys["weight_ih"] for layer in self.layers)

    def build(self, tensors: Mapping[str, Tensor], plans: Mapping[str, WeightPlan] | None = None) -> nn.Module:
        """Build it in float32: a torch.nn layer, or a ring layer where `plans` names a weight.

        Args:
            tensors: by key; cores are `<key>.core.<k>`.
            plans: structures by weight.
        """
        options = {"batch_first": True, "nonlinearity": self.layers[0].nonlinearity}
        module = build_stack(self.layers, dict(plans or {}), **options)
        return load_stack(module, self.layers, tensors)


@dataclass(frozen=True)
class Batch:
    """Some examples, as data feeds them to stacks.

    Args:
        entries: by stack: vectors or tokens, packed where lengths differ.
        states: by stack: (L, B, H) initial states that the data gives.
        count: examples.
    """

    entries: Mapping[str, Sequences]
    states: Mapping[str, Tensor]
    count: int


class Network:
    """The recurrent part of a dense network, ready to run on calibration data.

    Args:
        file: the network.
        data: what feeds it.
        tied: keys of tensors that are one with others, and must not change.

    Attributes:
        units: in an order in which each can be run.
        unfed: stacks that neither data nor another stack is known to feed.
        notes: what was decided, in words.
    """

    def __init__(self, file: ModelFile, data: CalibrationData, tied: Iterable[str] = ()) -> None:
        self.file, self.data, self.tied = file, data, frozenset(tied)
        below, notes = _links(file, data)
        self.units = tuple(_units(file, data, below))
        self.unfed = tuple(stack for stack in file.stacks if stack not in {unit.stack for unit in self.units})
        self.notes = notes

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The recurrent layers' tensors in float32, by key."""
        keys = [key for unit in self.units for layer in unit.layers for key in layer.keys.values()]
        return {key: self.file.tensor(key).float() for key in keys}

    @cached_property
    def dense(self) -> dict[str, nn.Module]:
        """Every unit as a torch.nn layer with the dense weights."""
        return {unit.name: unit.build(self.tensors).requires_grad_(False) for unit in self.units}

    @property
    def ends(self) -> tuple[Unit, ...]:
        """Units whose output no unit takes: what they give is what the network gives."""
        inner = {unit.below for unit in self.units} | {self._last(one) for one in self._sources().values()}
        return tuple(unit for unit in self.units if unit.name not in inner)

    def free_bias(self, weight: str) -> str | None:
        """Key of the input bias that goes with a weight; None where there is none or it is tied."""
        layers = (layer for unit in self.units for layer in unit.layers)
        key = next(layer.keys.get("bias_ih") for layer in layers if layer.keys["weight_ih"] == weight)
        return None if key in self.tied else key

    def unit(self, weight: str) -> Unit:
        """The unit that a weight belongs to.

        Raises:
            UsageError: its stack is not fed.
        """
        found = self.unit_of(weight)
        if found is None:
            raise UsageError(
                f"nothing is known to feed {weight}: name an array of the calibration data by its stack"
            )
        return found

    def unit_of(self, weight: str) -> Unit | None:
        """The unit that a weight belongs to; None where its stack is not fed."""
        return next((unit for unit in self.units if weight in unit.weights), None)

    def batches(self, rows: np.ndarray, most: int = 256) -> Iterator[Batch]:
        """Read examples a few at a time."""
        per_row = max(1, sum(feed.values for feed in self.data.feeds.values()))
        size = max(1, min(most, BATCH_VALUES // per_row))
        for start in range(0, len(rows), size):
            yield self.batch(rows[start : start + size])

    def batch(self, rows: np.ndarray) -> Batch:
        """Read some examples."""
        entries = {stack: packed(*feed.read(rows)) for stack, feed in self.data.feeds.items()}
        states = {
            stack: state[torch.from_numpy(rows)].transpose(0, 1).contiguous()
            for stack, state in self.data.states.items()
            if isinstance(state, Tensor)
        }
        return Batch(entries, states, len(rows))

    def vectors(self, unit: Unit, batch: Batch) -> Sequences:
        """What data feeds a unit, as vectors."""
        return on_rows(batch.entries[unit.stack], self.data.feeds[unit.stack].vectors)

    def run(
        self,
        batch: Batch,
        replaced: Mapping[str, nn.Module],
        given: Mapping[str, Sequences] | None = None,
        known: Run | None = None,
    ) -> Run:
        """Run all units.

        Args:
            batch: examples.
            replaced: modules by unit; the dense ones otherwise.
            given: inputs by unit that override what feeds it.
            known: what the dense network gives, taken over for units that come before all that are replaced.
        """
        done = Run({}, {})
        for unit in self.units:
            name = unit.name
            if known is not None and name not in replaced and not self._comes_after(unit, replaced):
                done.outputs[name], done.states[name] = known.outputs[name], known.states[name]
                continue
            module = replaced.get(name, self.dense[name])
            if given and name in given:
                inputs = given[name]
            else:
                inputs = done.outputs[unit.below] if unit.below else self.vectors(unit, batch)
            done.outputs[name], done.states[name] = module(inputs, self._start(unit, batch, done))
        return done

    def _comes_after(self, unit: Unit, names: Iterable[str]) -> bool:
        """Whether what a unit gives depends on one of these."""
        return not self._ancestors[unit.name].isdisjoint(names)

    @cached_property
    def _ancestors(self) -> dict[str, set[str]]:
        """The units that each unit depends on."""
        found: dict[str, set[str]] = {}
        for unit in self.units:
            parents = {unit.below} if unit.below else set()
            if unit.stack in self._sources():
                parents.add(f"{self._sources()[unit.stack]}.{unit.depth}")
            found[unit.name] = parents.union(*(found[parent] for parent in parents))
        return found

    def _start(self, unit: Unit, batch: Batch, done: Run) -> Tensor | tuple[Tensor, Tensor] | None:
        """The initial state of a unit, or None for zeros."""
        source = self.data.states.get(unit.stack)
        if isinstance(source, str):
            return done.states[f"{source}.{unit.depth}"]
        if unit.stack not in batch.states:
            return None
        directions = len(unit.layers)
        state = batch.states[unit.stack][unit.depth * directions : (unit.depth + 1) * directions]
        return (state, torch.zeros_like(state)) if unit.layers[0].kind == "lstm" else state

    def _sources(self) -> dict[str, str]:
        return {stack: source for stack, source in self.data.states.items() if isinstance(source, str)}

    def _last(self, stack: str) -> str:
        return [unit.name for unit in self.units if unit.stack == stack][-1]


@dataclass(frozen=True)
class Run:
    """What every unit gave.

    Args:
        outputs: sequences by unit.
        states: last states by unit, as torch.nn gives them.
    """

    outputs: dict[str, Sequences]
    states: dict[str, Tensor | tuple[Tensor, Tensor]]

    def rows(self, unit: Unit) -> Tensor:
        """Every valid step of every example, (rows, D * H)."""
        return flat_rows(self.outputs[unit.name])

    def final(self, unit: Unit) -> Tensor:
        """The last state of all directions, (B, D * H)."""
        state = self.states[unit.name]
        hidden = state if isinstance(state, Tensor) else state[0]
        return torch.cat(tuple(hidden), dim=-1)


def _links(file: ModelFile, data: CalibrationData) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which stack takes the output of which, for those that data does not feed."""
    if len(data.feeds) == len(file.stacks):
        return {}, ()
    try:
        order, how = find_chain(file)
    except (UsageError, InputFileError):
        order, how = (), ""
    links = {
        after: before
        for before, after in pairwise(order)
        if after not in data.feeds and output_size(file.stacks[before]) == input_size(file.stacks[after])
    }
    return links, tuple(f"{after} is fed what {before} gives ({how})" for after, before in links.items())


def _units(file: ModelFile, data: CalibrationData, links: Mapping[str, str]) -> Iterator[Unit]:
    """Units of every stack that is fed, each after those it depends on."""
    waiting, placed = list(file.stacks), set()
    while waiting:
        ready = [
            stack
            for stack in waiting
            if (stack in data.feeds or links.get(stack) in placed)
            and (not isinstance(state := data.states.get(stack), str) or state in placed)
        ]
        if not ready:
            return
        for stack in ready:
            below = None if stack in data.feeds else f"{links[stack]}.{file.stacks[links[stack]][-1].index}"
            for depth, layers in groupby(file.stacks[stack], key=lambda layer: layer.index):
                alone = tuple(replace(layer, index=0) for layer in layers)
                yield Unit(f"{stack}.{depth}", stack, alone, below, depth)
                below = f"{stack}.{depth}"
            placed.add(stack)
            waiting.remove(stack)
