"""How far a changed network's outputs lie from the dense one's, on inputs that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.errors import InputFileError
from trcompress.layers import is_recurrent
from trcompress.network.batches import Forward, bytes_of, evaluating, run_first, tensors_of
from trcompress.network.outputs import Outputs, Select, find_outputs, relative_distance

HELD_OUT_EVERY, HELD_OUT_AT = 4, 1
"""Every fourth batch is held out, the second of each four."""

KEPT_BYTES = 512 * 2**20
"""Bytes of batches that are kept."""


@dataclass(frozen=True)
class Inputs:
    """Batches of a network's inputs.

    Args:
        fitted: to record moments and to rank units on.
        held_out: to measure damage on; the same where there is one batch only.
        notes: what was decided, in words.
    """

    fitted: Sequence[Any]
    held_out: Sequence[Any]
    notes: tuple[str, ...] = ()


def divide_batches(batches: Iterable[Any], held_out: Iterable[Any] | None = None) -> Inputs:
    """Keep batches up to `KEPT_BYTES` and hold every fourth out, or those given.

    Raises:
        InputFileError: there is none.
    """
    kept: list[Any] = []
    size = 0
    for batch in batches:
        size += bytes_of(batch)
        if kept and size > KEPT_BYTES:
            break
        kept.append(batch)
    if not kept:
        raise InputFileError("the calibration data must hold at least one batch: it gave none")
    if held_out is not None:
        return Inputs(kept, list(held_out))
    held = [batch for number, batch in enumerate(kept) if number % HELD_OUT_EVERY == HELD_OUT_AT]
    fitted = [batch for number, batch in enumerate(kept) if number % HELD_OUT_EVERY != HELD_OUT_AT]
    if held:
        return Inputs(fitted, held)
    return Inputs(fitted, fitted, ("nothing is held out: the data is a single batch; give several smaller ones",))


class Damage:
    """Measures changed networks against the dense one.

    Args:
        model: the dense network, as it is now.
        held_out: batches.
        forward: `forward(model, batch)`.
        given: what is compared: "scores", "values", "states", a function, or None to find out.

    Raises:
        InputFileError: what the dense network gives is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        held_out: Sequence[Any],
        forward: Forward,
        given: str | Outputs | Select | None = None,
    ) -> None:
        self._held_out, self._forward = held_out, forward
        with evaluating(model):
            self.outputs: Outputs = find_outputs(model, run_first(model, forward, held_out[0]), given)
        self._wanted = self._answers(model)
        if not all(bool(one.isfinite().all()) for one in self._wanted):
            raise InputFileError(
                "what the dense network gives must be finite where it is compared: there is NaN or Inf on inputs "
                "held out; mend the data, the network, or values that overflow in the type that it runs in"
            )

    @property
    def measure(self) -> str:
        """What the figures are, in words."""
        return self.outputs.measure

    def of(self, model: nn.Module) -> float:
        """Return the distance of a network's outputs, 0 where they are equal; infinite where it cannot run."""
        try:
            answers = self._answers(model)
        except (RuntimeError, ValueError, IndexError):
            return inf
        if [one.shape for one in answers] != [one.shape for one in self._wanted]:
            return inf
        distance = self.outputs.distance if self.outputs.kind != "states" else relative_distance
        found = sum(float(distance(mine, dense)) for mine, dense in zip(answers, self._wanted, strict=True))
        return max(found, 0.0) if isfinite(found) else inf

    @torch.no_grad()
    def _answers(self, model: nn.Module) -> list[Tensor]:
        """All compared tensors as rows, those of all batches under each other."""
        found: list[list[Tensor]] = []
        with evaluating(model):
            for batch in self._held_out:
                with _states(model) as states:
                    result = self._forward(model, batch)
                found.append(states if self.outputs.kind == "states" else self.outputs.tensors(result))
        return [torch.cat(parts) for parts in zip(*found, strict=True)]


@contextmanager
def _states(model: nn.Module) -> Iterator[list[Tensor]]:
    """Gather what recurrent modules give while the context is open, as rows, one tensor a module."""
    seen: dict[str, list[Tensor]] = {}
    rows: list[Tensor] = []

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            first = tensors_of(output)[0]
            seen.setdefault(name, []).append(first.reshape(-1, first.shape[-1]))

        return keep

    handles = [one.register_forward_hook(hook(name)) for name, one in model.named_modules() if is_recurrent(one)]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
        rows += [torch.cat(parts) for parts in seen.values()]
