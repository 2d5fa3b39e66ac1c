"""A live network with what was recorded of it: how far its outputs move with compressed weights in place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.calibration.factor_cache import FactorCache
from trcompress.calibration.sensitivity import Sensitivity, gate_sensitivity
from trcompress.errors import InputFileError
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
        batches = _first(self.recording.fitted, self.recording.fitted_steps, PROBED_STEPS)
        return gate_sensitivity(
            self.model, self.run, self.recording.outputs, batches, self.seed, self.recording.tokens
        )

    def sensitivity(self, key: str) -> Sensitivity | None:
        """How the outputs answer to a weight's gates; None where no gradient reaches them."""
        return self.sensitivities.get(self.names[key])

    def run(
        self,
        batch: Any,
        substitutes: Mapping[str, Substitute],
        tap: Tap | None = None,
        calls: Calls | None = None,
    ) -> list[Tensor]:
        """Run a batch with some weights replaced; return the rows that are compared."""
        outputs = self.recording.outputs
        if outputs.kind != "states":
            with layer_by_layer(self.model, substitutes, tap, calls):
                return outputs.tensors(self.forward(self.model, batch))
        states: dict[str, list[Tensor]] = {}

        def watch(what: str, weight: str, rows: Tensor) -> None:
            if what == "states" and weight in self._top:
                states.setdefault(weight, []).append(rows)
            if tap:
                tap(what, weight, rows)

        with layer_by_layer(self.model, substitutes, watch, calls):
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
        """All that is held out."""
        return HeldOut(self, self.recording.held_out)

    @cached_property
    def brief(self) -> HeldOut:
        """Some of it, where much is to be compared."""
        recording = self.recording
        return HeldOut(self, _first(recording.held_out, recording.held_out_steps, BRIEF_STEPS))

    def distance(self, substitutes: Mapping[str, Substitute], brief: bool = False) -> float:
        """How far the held-out outputs move with these in place of weights, by their names in the module."""
        return (self.brief if brief else self.held_out).distance(substitutes)


class HeldOut:
    """Batches on which candidates are compared; what the dense network gives on them is computed once.

    Args:
        live: the network.
        batches: what it is run on.
    """

    def __init__(self, live: LiveNetwork, batches: Sequence[Any]) -> None:
        self.live, self.batches = live, batches
        self._kept: list[list[Tensor]] = []
        self._calls = [Calls(CALLS_BYTES // max(1, len(batches))) for _ in batches]
        with evaluating(live.model, live.seed), torch.no_grad():
            for batch, calls in zip(batches, self._calls, strict=True):
                self._kept.append(live.run(batch, {}, calls=calls))
                if not bool(torch.isfinite(live.difference(self._kept[-1], self._kept[-1]))):
                    raise InputFileError(
                        "what the dense network gives must be finite where it is compared: there is NaN or Inf "
                        "among it; choose other `outputs`, as a function of what it gives"
                    )
                if bytes_of(self._kept) > KEPT_BYTES:
                    self._kept = []
                    break

    @torch.no_grad()
    def distance(self, substitutes: Mapping[str, Substitute]) -> float:
        """Mean distance from the dense network's outputs, over all rows; infinite where a value is not finite."""
        total, count, live = 0.0, 0, self.live
        with evaluating(live.model, live.seed):
            for place, batch in enumerate(self.batches):
                dense = self._kept[place] if self._kept else live.run(batch, {})
                rows, calls = len(dense[0]), self._calls[place]
                calls.rewind()
                total += float(live.difference(live.run(batch, substitutes, calls=calls), dense)) * rows
                count += rows
        return total / max(1, count) if isfinite(total) else inf


def _first(batches: Sequence[Any], steps: Sequence[int], most: int) -> list[Any]:
    """The first batches that hold so many steps together, at least one."""
    found: list[Any] = []
    total = 0
    for batch, size in zip(batches, steps, strict=True):
        if found and total + size > most:
            break
        found.append(batch)
        total += size
    return found


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
