"""A live network with what was recorded of it: how far its outputs move with compressed weights in place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.calibration.factor_cache import FactorCache
from trcompress.calibration.sensitivity import Sensitivity, gate_sensitivity
from trcompress.errors import InputFileError, UsageError
from trcompress.model.matrix import Matrix
from trcompress.network.batches import Forward, bytes_of, default_forward, evaluating
from trcompress.network.calls import Calls
from trcompress.network.layerwise import Substitute, Tap, layer_by_layer, recurrent_layers
from trcompress.network.moments import InputMoments
from trcompress.network.outputs import Outputs, Select
from trcompress.network.record import Recording, record

BRIEF_STEPS = 6_000
"""Steps of the recurrent layers in the part of the held-out set on which many candidates are compared."""
PROBED_STEPS = 8_000
"""Steps over which the sensitivity of gates is measured."""
KEPT_BYTES = 48 * 2**20
"""Bytes of the dense network's outputs that are kept; above, they are computed again each time."""
CALLS_BYTES = 24 * 2**20
"""Bytes of what its layers were fed and gave that are kept; further calls run again."""


@dataclass(frozen=True)
class LiveNetwork:
    """A dense network, ready to be compared with compressed weights in its place.

    Args:
        model: any module.
        recording: what was seen of it.
        forward: runs it on a batch.
        names: the name in the module of each weight_ih, by the key that plans use.
        tied: names of parameters that are one with others, and must not change.
        seed: of everything random.
        origin: where the data came from, plain values for the lineage.
        factors: closed forms that were found on the way.

    Example:
        >>> lstm, loader = nn.LSTM(3, 4, batch_first=True), [torch.ones(2, 5, 3)] * 4
        >>> live = LiveNetwork.of(lstm, loader)
        >>> live.distance({}), live.moments("weight_ih_l0").count
        (0.0, 30)
    """

    model: nn.Module
    recording: Recording
    forward: Forward = default_forward
    names: Mapping[str, str] = field(default_factory=dict)
    tied: Collection[str] = ()
    seed: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)
    factors: FactorCache = field(default_factory=FactorCache, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        held_out: Iterable[Any] | None = None,
        forward: Forward | None = None,
        outputs: str | Outputs | Select | None = None,
        names: Mapping[str, str] | None = None,
        tied: Collection[str] = (),
        seed: int = 0,
    ) -> LiveNetwork:
        """Record a network on batches; see `trcompress.network.record.record` for the arguments and faults."""
        seen = record(model, batches, held_out=held_out, forward=forward, outputs=outputs, seed=seed)
        given = {
            weight: weight
            for layers in recurrent_layers(model).values()
            for one in layers
            for weight in one.weights
        }
        return cls(model, seen, forward or default_forward, names or given, {*tied, *_shared(model)}, seed)

    def known(self, matrices: Iterable[Matrix]) -> frozenset[str]:
        """Keys of the matrices that may be replaced: of the user's own network, those of layers that it knows."""
        keys = frozenset(one.key for one in matrices)
        return keys & frozenset(self.names) if "model" in self.origin else keys

    def feeds(self, key: str) -> bool:
        """Whether anything reached a weight."""
        return self.names.get(key) in self.recording.inputs

    def moments(self, key: str) -> InputMoments:
        """What a weight is fed."""
        return self.recording.inputs[self.names[key]]

    def is_fed_tokens(self, key: str) -> bool:
        """Whether a weight is fed rows of an embedding as they are."""
        return self.names[key] in self.recording.tokens

    def bias(self, key: str) -> Tensor | None:
        """The input bias beside a weight, float64 on the CPU; None where there is none or it is tied."""
        name = self.bias_name(key)
        return None if name is None else self.model.get_parameter(name).detach().double().cpu()

    def bias_name(self, key: str) -> str | None:
        """The name of the input bias beside a weight; None where there is none or it must not change."""
        name = self.names[key].replace("weight_ih", "bias_ih")
        known = dict(self.model.named_parameters(remove_duplicate=False))
        return name if name in known and name not in self.tied else None

    @cached_property
    def sensitivities(self) -> dict[str, Sensitivity]:
        """How the outputs answer to the gates of every weight, by its name in the module."""
        recording = self.recording
        batches = recording.fitted[: _first(recording.fitted_steps, PROBED_STEPS)]
        run = partial(self.run, recompute=True)
        return gate_sensitivity(self.model, run, recording.outputs, batches, self.seed, recording.tokens)

    def sensitivity(self, key: str) -> Sensitivity | None:
        """How the outputs answer to a weight's gates; None where no gradient reaches them."""
        return self.sensitivities.get(self.names[key])

    def release(self) -> None:
        """Drop what only the search for cores needs; it is found or computed again where it is asked for."""
        self.__dict__.pop("sensitivities", None)
        self.factors.clear()
        if "held_out" in self.__dict__:
            self.held_out.forget_calls()

    def require_gradients(self) -> None:
        """Refuse a network that gradient steps cannot lead: before anything slow, and not where steps begin.

        Raises:
            UsageError: what the network gives has no gradient.
        """
        if not self.sensitivities:
            raise UsageError(
                "`refine` needs gradients: what the network gives does not depend on its recurrent layers through "
                "differentiable operations (a forward under torch.no_grad, an argmax or a detach ends them); leave "
                'refine out, or compare hidden states with outputs="states"'
            )

    def run(
        self,
        batch: Any,
        substitutes: Mapping[str, Substitute],
        tap: Tap | None = None,
        calls: Calls | None = None,
        recompute: bool = False,
    ) -> list[Tensor]:
        """Run a batch with some weights replaced; return the rows that are compared. See `layer_by_layer`."""
        outputs = self.recording.outputs
        if outputs.kind != "states":
            with layer_by_layer(self.model, substitutes, tap, calls, recompute):
                return outputs.tensors(self.forward(self.model, batch))
        states: dict[str, list[Tensor]] = {}
        top = self._top  # found before their forward is exchanged: a forward of its own would rule them out

        def watch(what: str, weight: str, rows: Tensor) -> None:
            if what == "states" and weight in top:
                states.setdefault(weight, []).append(rows)
            if tap:
                tap(what, weight, rows)

        with layer_by_layer(self.model, substitutes, watch, calls, recompute):
            self.forward(self.model, batch)
        return [torch.cat(rows) for rows in states.values()]

    @cached_property
    def _top(self) -> set[str]:
        return {weight for layers in recurrent_layers(self.model).values() for weight in layers[-1].weights}

    def difference(self, mine: Sequence[Tensor], dense: Sequence[Tensor]) -> Tensor:
        """The distance between what two runs gave, differentiable."""
        pairs = zip(mine, dense, strict=True)
        return torch.stack([self.recording.outputs.distance(one, other) for one, other in pairs]).mean()

    @cached_property
    def held_out(self) -> HeldOut:
        """What candidates are compared on."""
        return HeldOut(self, self.recording.held_out)

    def distance(self, substitutes: Mapping[str, Substitute], brief: bool = False) -> float:
        """How far the held-out outputs move with these in place of weights, by their names in the module.

        Args:
            substitutes: what takes the place of weights.
            brief: run through the first held-out batches alone, where much is to be compared.
        """
        steps = self.recording.held_out_steps
        return self.held_out.distance(substitutes, _first(steps, BRIEF_STEPS) if brief else len(steps))


class HeldOut:
    """Batches on which candidates are compared; what the dense network gives on them is computed once.

    Args:
        live: the network.
        batches: what it is run on.
    """

    def __init__(self, live: LiveNetwork, batches: Sequence[Any]) -> None:
        self.live, self.batches = live, batches
        self._kept: list[list[Tensor]] = []
        self._calls: list[Calls] = []
        left, size = CALLS_BYTES, 0
        with evaluating(live.model, live.seed), torch.no_grad():
            for batch in batches:
                calls = Calls(left)
                rows = live.run(batch, {}, calls=calls)
                calls.rewind()
                if not bool(torch.isfinite(live.difference(rows, rows))):
                    raise InputFileError(
                        "what the dense network gives must be finite where it is compared: there is NaN or Inf "
                        "among it; choose other `outputs`, as a function of what it gives"
                    )
                left, size = calls.left, size + bytes_of(rows)
                self._calls.append(calls)
                if size <= KEPT_BYTES:
                    self._kept.append(rows)

    def forget_calls(self) -> None:
        """Drop what layers gave: where every weight is replaced at once, hardly any is fed the same again."""
        self._calls = [Calls(0) for _ in self.batches]
        for calls in self._calls:
            calls.rewind()

    @torch.no_grad()
    def distance(self, substitutes: Mapping[str, Substitute], first: int | None = None) -> float:
        """Mean distance from the dense network's outputs, over all rows; infinite where a value is not finite.

        Args:
            substitutes: what takes the place of weights.
            first: how many batches are run; all by default.
        """
        total, count, live = 0.0, 0, self.live
        with evaluating(live.model, live.seed):
            for place, (batch, calls) in enumerate(zip(self.batches[:first], self._calls, strict=False)):
                dense = self._kept[place] if place < len(self._kept) else live.run(batch, {})
                calls.rewind()
                total += float(live.difference(live.run(batch, substitutes, calls=calls), dense)) * len(dense[0])
                count += len(dense[0])
        return total / max(1, count) if isfinite(total) else inf


def _first(sizes: Sequence[int], most: int) -> int:
    """How many of the first batches hold so many steps together, at least one."""
    total = 0
    for place, size in enumerate(sizes):
        total += size
        if place and total > most:
            return place
    return len(sizes)


def _shared(model: nn.Module) -> set[str]:
    """Names of parameters that have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    places: dict[int, int] = {}
    for module in model.modules():
        for one in module._parameters.values():
            places[id(one)] = places.get(id(one), 0) + 1
    return {name for key, group in names.items() if places[key] > 1 for name in group}
