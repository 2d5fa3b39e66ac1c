"""What refinement learns from: calibration batches with what the dense network makes of them.

Where layers are fed rows of an embedding, every round after the first has its own version of each batch, in which
some tokens are swapped for others on their way into the embedding: the dense network answers those as well, and a
few hundred sequences alone would be learnt by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.calibration.live import LiveNetwork
from trcompress.network.batches import bytes_of
from trcompress.network.layerwise import Substitute
from trcompress.network.outputs import relative_distance

SWAPPED = 0.07
"""Share of the tokens that are swapped after the first round."""
KEPT_BYTES = 16 * 2**20
"""Bytes of answers of the dense network that are kept for the next round, where all rounds are alike."""
HIDDEN = 20.0
"""Weight of the hidden states beside the outputs: they say more than outputs do, so less is learnt by heart."""
SEEDS = 1_000
"""Rounds before a batch is swapped as another one was."""
RECOMPUTED_ROWS = 2_500
"""Steps of the recurrent layers in a batch above which their inner values are recomputed, not kept."""
STEP_ROWS = 2_000
"""Steps of the recurrent layers that one gradient is of, at least: it takes as many batches as hold them."""


@dataclass(frozen=True)
class Example:
    """One batch in one version, and what the dense network makes of it.

    Args:
        live: the network.
        batch: what it is run on.
        version: 0 for the batch as it is; else the seed of the tokens that are swapped.
        outputs: the rows that are compared.
        states: hidden states of the layers that are compressed, by the name of their weight.
        rows: steps of the recurrent layers in it.
    """

    live: LiveNetwork
    batch: Any
    version: int
    outputs: Sequence[Tensor]
    states: Mapping[str, Tensor]
    rows: int

    def loss(self, substitutes: Mapping[str, Substitute]) -> Tensor:
        """Distance of the outputs and of the hidden states with these weights in place."""
        recompute = self.rows > RECOMPUTED_ROWS
        rows, states = run_watched(self.live, self.batch, self.version, self.states, substitutes, recompute)
        hidden = [relative_distance(states[name], dense) for name, dense in self.states.items()]
        loss = self.live.difference(rows, self.outputs)
        return loss + HIDDEN * torch.stack(hidden).mean() if hidden else loss


class Examples:
    """Batches without end, in an order that changes every time round.

    Args:
        live: the network.
        weights: names of the weights that are compressed.
    """

    def __init__(self, live: LiveNetwork, weights: Sequence[str]) -> None:
        self._live, self._weights = live, weights
        self._generator = torch.Generator().manual_seed(live.seed)
        self._kept: dict[int, Example] = {}
        self._size = 0
        self._most = len(live.recording.fitted)
        self._endless = self._all()

    def next(self) -> list[Example]:
        """Enough batches for one step."""
        found = [next(self._endless)]
        while sum(one.rows for one in found) < STEP_ROWS and len(found) < self._most:
            found.append(next(self._endless))
        return found

    def _all(self) -> Iterator[Example]:
        batches, swapped = self._live.recording.fitted, bool(self._live.recording.tokens)
        for version in count():
            for place in torch.randperm(len(batches), generator=self._generator).tolist():
                if place in self._kept:
                    yield self._kept[place]
                    continue
                example = self._answered(batches[place], place, version if swapped else 0)
                size = bytes_of(example.outputs) + bytes_of(dict(example.states))
                if not swapped and self._size + size <= KEPT_BYTES:
                    self._kept[place] = example
                    self._size += size
                yield example

    @torch.no_grad()
    def _answered(self, batch: Any, place: int, version: int) -> Example:
        seed = version and self._live.seed * 1_000_003 + place * SEEDS + version
        outputs, states = run_watched(self._live, batch, seed, dict.fromkeys(self._weights), {})
        return Example(self._live, batch, seed, outputs, states, self._live.recording.fitted_steps[place])


def run_watched(
    live: LiveNetwork,
    batch: Any,
    version: int,
    weights: Mapping[str, Any],
    substitutes: Mapping[str, Substitute],
    recompute: bool = False,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Run a version of a batch; return the rows that are compared, and hidden states by weight."""
    states: dict[str, list[Tensor]] = {}

    def tap(what: str, weight: str, rows: Tensor) -> None:
        if what == "states" and weight in weights:
            states.setdefault(weight, []).append(rows)

    with swapped_tokens(live, version):
        rows = live.run(batch, substitutes, tap, recompute=recompute)
    return rows, {weight: torch.cat(parts) for weight, parts in states.items()}


@contextmanager
def swapped_tokens(live: LiveNetwork, version: int) -> Iterator[None]:
    """Swap some tokens for others, drawn as often as they are used, on their way into the embeddings."""
    if not version:
        yield
        return
    generator = torch.Generator().manual_seed(version)
    uses = {use.embedding: use.counts for use in live.recording.tokens.values()}
    with ExitStack() as stack:
        for name, counts in uses.items():
            module = live.model.get_submodule(name)
            hook = module.register_forward_pre_hook(_swap(module, counts, generator))
            stack.callback(hook.remove)
        yield


def _swap(module: nn.Module, counts: Tensor, generator: torch.Generator) -> Callable[..., Any]:
    padding = getattr(module, "padding_idx", None)

    def hook(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens = given[0]
        others = torch.multinomial(counts, max(1, tokens.numel()), replacement=True, generator=generator)
        others = others[: tokens.numel()].view(tokens.shape).to(tokens)
        chance = torch.rand(tokens.shape, generator=generator).to(tokens.device)
        moved = chance < SWAPPED
        if padding is not None:
            moved &= tokens != padding
        return (torch.where(moved, others, tokens), *given[1:])

    return hook
