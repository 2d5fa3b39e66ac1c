"""Record what reaches every recurrent layer of a live network, and what the network gives, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.errors import InputFileError, UsageError
from trcompress.network.batches import Forward, batch_fits, bytes_of, default_forward, evaluating, run_first
from trcompress.network.layerwise import layer_by_layer, recurrent_layers
from trcompress.network.moments import InputMoments, Sketch, require_finite, weighted_moments
from trcompress.network.outputs import Outputs, Select, find_outputs
from trcompress.network.tokens import TokenTables, TokenUse

HELD_OUT_EVERY, HELD_OUT_AT = 4, 1
"""Every fourth batch is held out, the second of each four."""
KEPT_BYTES = 48 * 2**20
"""Bytes of batches that are kept on either side."""
HELD_OUT_STEPS = 40_000
"""Steps of the recurrent layers in the held-out set at most: every candidate runs through them."""


@dataclass(frozen=True)
class Recording:
    """What was seen while a network ran on its data.

    Args:
        inputs: second moments of what each weight_ih is fed, by its name; of fitted batches only.
        states: second moments of the hidden states of each layer and direction, by the name of its weight_ih.
        tokens: embeddings whose rows a layer is fed as they are, by the weight's name.
        fitted: batches to fit on, a sample where there were many.
        held_out: batches to compare on, others than those.
        outputs: what is compared.
        fitted_steps: rows that reached a recurrent layer at most, in each of `fitted`.
        held_out_steps: the same of `held_out`.
        notes: what was decided, in words.
    """

    inputs: Mapping[str, InputMoments]
    states: Mapping[str, InputMoments]
    tokens: Mapping[str, TokenUse]
    fitted: Sequence[Any]
    held_out: Sequence[Any]
    outputs: Outputs
    fitted_steps: Sequence[int]
    held_out_steps: Sequence[int]
    notes: tuple[str, ...] = ()


def record(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    held_out: Iterable[Any] | None = None,
    forward: Forward | None = None,
    outputs: str | Outputs | Select | None = None,
    seed: int = 0,
) -> Recording:
    """Run a network once over its data, in eval mode and without gradients, and keep sums, not examples.

    Args:
        model: any module with torch.nn recurrent modules in it, at any depth.
        batches: whatever `forward` takes, as a DataLoader gives them; run through once. Labels are never read.
        held_out: batches to compare on; None holds out every fourth of `batches`.
        forward: runs the model on a batch; `trcompress.network.batches.default_forward` by default.
        outputs: what is compared: "scores", "values", "states", a function that selects from what forward returns,
            or None: see `trcompress.network.outputs.find_outputs`.
        seed: of anything random in the network or the loader, and of the sample that is kept.

    Raises:
        InputFileError: no batch, batches that the network cannot take, or values that are not finite.
        UsageError: no recurrent layer is reached, or `outputs` fits nothing.

    Example:
        >>> lstm, loader = nn.LSTM(3, 4, batch_first=True), [(torch.ones(2, 5, 3), torch.zeros(2))] * 4
        >>> seen = record(lstm, loader)
        >>> seen.inputs["weight_ih_l0"].mean.tolist(), len(seen.fitted), len(seen.held_out)
        ([1.0, 1.0, 1.0], 3, 1)
    """
    if not recurrent_layers(model):
        raise UsageError("nothing to record: the model holds no nn.LSTM, nn.GRU, nn.RNN or cell of one")
    run = forward or default_forward
    generator = torch.Generator().manual_seed(seed)
    fitted, compared = _Sample(generator), _Sample(generator, HELD_OUT_STEPS)
    watch = _InputRecorder(model)
    decided: Outputs | None = None
    with evaluating(model, seed):
        for number, (held, batch) in enumerate(_divided(batches, held_out)):
            if decided is None:
                decided = find_outputs(model, run_first(model, run, batch), outputs)
            later = batch_fits(model, batch, f"; this is batch {number}, those before it fitted")
            with later if number and run is default_forward else nullcontext():
                steps = watch.run(run, batch, counted=not held)
            (compared if held else fitted).add(batch, steps)
    if decided is None:
        raise InputFileError("the calibration data must hold at least one batch: it gave none")
    notes: tuple[str, ...] = (f"compared: {decided.measure}; {decided.why}",)
    if not compared.kept:
        compared = fitted
        notes += ("nothing is held out: the data is a single batch; give several batches of fewer examples",)
    return watch.recording(fitted, compared, decided, notes)


def _divided(batches: Iterable[Any], held_out: Iterable[Any] | None) -> Iterator[tuple[bool, Any]]:
    """Pairs of (whether it is held out, batch)."""
    for number, batch in enumerate(batches):
        yield held_out is None and number % HELD_OUT_EVERY == HELD_OUT_AT, batch
    for batch in held_out or ():
        yield True, batch


@dataclass
class _Sample:
    """Batches kept of a stream, each as likely as any other."""

    generator: torch.Generator
    most_steps: int | None = None
    kept: list[Any] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    _seen: int = 0
    _bytes: int = 0
    _steps: int = 0

    def add(self, batch: Any, steps: int) -> None:
        """Take a batch in where there is room, or by chance in the place of another."""
        self._seen += 1
        taken = bytes_of(batch)
        if not self.kept or self._has_room(taken, steps):
            self.kept.append(batch)
            self.steps.append(steps)
            self._bytes, self._steps = self._bytes + taken, self._steps + steps
            return
        place = int(torch.randint(self._seen, (1,), generator=self.generator))
        if place < len(self.kept):
            self._bytes += taken - bytes_of(self.kept[place])
            self._steps += steps - self.steps[place]
            self.kept[place], self.steps[place] = batch, steps

    def _has_room(self, taken: int, steps: int) -> bool:
        fits = self._bytes + taken <= KEPT_BYTES
        return fits and (self.most_steps is None or self._steps + steps <= self.most_steps)


class _InputRecorder:
    """Sums over what reaches the recurrent layers."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._inputs: dict[str, Sketch] = {}
        self._states: dict[str, Sketch] = {}
        self._compared: dict[str, Tensor] = {}
        self._tables = TokenTables(model)

    @torch.no_grad()
    def run(self, forward: Forward, batch: Any, *, counted: bool) -> int:
        """Run one batch; return the largest number of rows that reached one layer."""
        steps: dict[str, int] = {}

        def tap(what: str, weight: str, rows: Tensor) -> None:
            if what == "inputs":
                steps[weight] = steps.get(weight, 0) + len(rows)
            if counted and len(rows):
                self._add(what, weight, rows)
            elif not counted:  # a sum that is looked at in the end: the host does not wait for the device here
                at = f"{what} of {weight}"
                self._compared[at] = rows.sum(dtype=torch.float64) + self._compared.get(at, 0)

        with layer_by_layer(self._model, tap=tap):
            forward(self._model, batch)
        return max(steps.values(), default=0)

    def _add(self, what: str, weight: str, rows: Tensor) -> None:
        sketches = self._inputs if what == "inputs" else self._states
        if weight not in sketches:
            sketches[weight] = Sketch(rows.shape[1], device=rows.device)
        sketches[weight].add(rows)
        if what == "inputs":
            self._tables.add(weight, rows)

    def recording(self, fitted: _Sample, compared: _Sample, outputs: Outputs, notes: tuple[str, ...]) -> Recording:
        """Everything seen so far.

        Raises:
            UsageError: no recurrent layer was reached.
            InputFileError: NaN or Inf reached one.
        """
        for total in self._compared.values():
            require_finite(total)
        if not self._inputs:
            names = ", ".join(name or "(root)" for name in recurrent_layers(self._model))
            raise UsageError(f"the data must reach a recurrent layer: the network ran without calling {names}")
        inputs = {weight: self._moments(weight) for weight in self._inputs}
        states = {weight: sketch.moments() for weight, sketch in self._states.items()}
        return Recording(
            inputs,
            states,
            self._tables.uses,
            fitted.kept,
            compared.kept,
            outputs,
            fitted.steps,
            compared.steps,
            notes,
        )

    def _moments(self, weight: str) -> InputMoments:
        use = self._tables.uses.get(weight)
        self._inputs[weight].require_finite()  # a token's row may be NaN, too
        return weighted_moments(use.table, use.counts) if use else self._inputs[weight].moments()
