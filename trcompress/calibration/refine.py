"""Gradient steps without labels: the compressed network learns to do on calibration inputs what the dense one does.

Only cores and input biases move. The loss is the distance of the outputs, plus that of the hidden states of
every layer that is compressed. Steps end when the held-out distance rises; the best state is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import cos, pi

import torch
from torch import Tensor, nn

from trcompress.calibration.examples import Example, Examples
from trcompress.calibration.live import LiveNetwork
from trcompress.calibration.select import Candidate
from trcompress.network.batches import device_of, evaluating
from trcompress.network.gradients import frozen
from trcompress.network.layerwise import Substitute
from trcompress.util.memory import give_back

STEP_SIZE = 0.1
"""Learning rate, in units of the root mean square of what moves."""
LEAST_SIZE = 0.02
"""Root mean square below which a parameter counts as this large."""
LOOKS = 10
"""How often the held-out distance is measured."""
PATIENCE = 4
"""Looks without a better one after which the steps end: with a rate that falls, a better one may still come."""


@dataclass(frozen=True)
class Refined:
    """What refinement reached.

    Args:
        candidates: cores and biases, in the order given.
        before: held-out distance of all weights together, at the start.
        after: the same, of the best state seen: never above `before`.
        steps: taken.
    """

    candidates: tuple[Candidate, ...]
    before: float
    after: float
    steps: int


def refine(
    live: LiveNetwork,
    chosen: Sequence[Candidate],
    steps: int,
    *,
    tell: Callable[[str, float], None] | None = None,
) -> Refined:
    """Lower the distance of the outputs with all weights in place.

    Args:
        live: the dense network; see `LiveNetwork.require_gradients`.
        chosen: where to begin.
        steps: gradient steps at most.
        tell: called with (what, fraction done).
    """
    live.release()
    give_back()
    device = device_of(live.model)
    moving = [_Moving(live, one, device) for one in chosen]
    with (
        evaluating(live.model, live.seed),
        frozen(live.model),
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=False),
    ):
        return _Steps(live, moving, steps).run(tell or (lambda *_: None))


class _Moving:
    """One candidate whose cores and bias move."""

    def __init__(self, live: LiveNetwork, one: Candidate, device: torch.device) -> None:
        self.candidate, self.name = one, live.names[one.key]
        own = live.model.get_parameter(self.name)
        self.dtype = own.dtype
        self.cores = [_free(core, device) for core in one.found.cores]
        start = live.bias(one.key) if one.bias is None else one.bias
        self.bias = None if live.bias_name(one.key) is None or start is None else _free(start, device)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that moves."""
        return [*self.cores, *([] if self.bias is None else [self.bias])]

    def substitute(self) -> Substitute:
        """What takes the weight's place, differentiable."""
        left, right = (one.to(self.dtype) for one in self.candidate.found.plan.factors(self.cores))
        bias = None if self.bias is None else self.bias.to(self.dtype)
        if left.numel() + right.numel() < self.candidate.found.plan.matrix.parameters:
            return Substitute.of_factors(left, right, bias)
        return Substitute((left @ right).t(), None, bias)

    def result(self) -> Candidate:
        """The candidate as it is now."""
        cores = tuple(core.detach().cpu().clone() for core in self.cores)
        bias = None if self.bias is None else self.bias.detach().double().cpu()
        return replace(self.candidate, found=replace(self.candidate.found, cores=cores), bias=bias)


def _free(value: Tensor, device: torch.device) -> nn.Parameter:
    return nn.Parameter(value.detach().float().to(device).clone())


class _Steps:
    """Adam steps with a falling rate; a look at the held-out set now and then."""

    def __init__(self, live: LiveNetwork, moving: Sequence[_Moving], steps: int) -> None:
        self.live, self.moving, self.steps = live, moving, steps
        self.parameters = [parameter for one in moving for parameter in one.parameters]
        self.sizes = [
            STEP_SIZE * max(LEAST_SIZE, float(one.detach().square().mean().sqrt())) for one in self.parameters
        ]
        self.optimizer = torch.optim.Adam([{"params": [one]} for one in self.parameters], betas=(0.9, 0.99))
        self.kept = self._copy()

    def run(self, tell: Callable[[str, float], None]) -> Refined:
        """Take the steps; keep the best state seen."""
        examples = Examples(self.live, [one.name for one in self.moving])
        before = best = self._distance()
        worse, step = 0, 0
        for step in range(1, self.steps + 1):
            self._set_rate(step - 1)
            if not self._step(examples.next()):
                self._back(0.5)
            if step % max(1, self.steps // LOOKS) and step != self.steps:
                continue
            score = self._distance()
            tell(f"refine: held-out distance {score:.4g}", step / self.steps)
            if score < best:
                best, self.kept, worse = score, self._copy(), 0
                continue
            worse += 1
            if worse >= PATIENCE:
                break
            if score > before:
                self._back(0.25)
        self._restore()
        return Refined(tuple(one.result() for one in self.moving), before, best, step)

    def _step(self, examples: Sequence[Example]) -> bool:
        """Take one step; False where the loss is not finite any more."""
        self.optimizer.zero_grad()
        total = max(1, sum(one.rows for one in examples))
        for example in examples:
            loss = example.loss({one.name: one.substitute() for one in self.moving})
            if not bool(torch.isfinite(loss)):
                return False
            (loss * (example.rows / total)).backward(inputs=self.parameters)
        self.optimizer.step()
        return True

    def _set_rate(self, step: int) -> None:
        for group, size in zip(self.optimizer.param_groups, self.sizes, strict=True):
            group["lr"] = size * 0.5 * (1 + cos(pi * step / self.steps))

    def _back(self, factor: float) -> None:
        """Return to the best state: the steps were too long."""
        self.sizes = [size * factor for size in self.sizes]
        self._restore()
        self.optimizer.state.clear()

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, value in zip(self.parameters, self.kept, strict=True):
            parameter.copy_(value)

    def _copy(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def _distance(self) -> float:
        return self.live.distance({one.name: one.substitute() for one in self.moving})
