"""`DistillLoss`: the teacher's class scores and hidden states as a loss for anyone's own training loop."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from trcompress.errors import UsageError, nearest
from trcompress.layers import is_recurrent
from trcompress.network.batches import tensors_of
from trcompress.training.distill import EPSILON, softened_divergence
from trcompress.util.arguments import check_model

Select = Callable[[Any], Tensor]


class DistillLoss(nn.Module):
    """How far a compressed network is from its dense teacher: a loss to add to your own.

    `loss(output, *inputs)` runs the teacher on the inputs, without gradients and in eval mode, and compares class
    scores (softened divergence) and the hidden states of recurrent layers of the same name. The student must have
    been run on the same inputs just before; its hidden states were recorded on the way.

    Args:
        student: the network that learns; its recurrent layers are watched by hooks until `close`.
        teacher: the dense network; it is switched to eval mode and never trained.
        logits: weight of the class scores; 0 leaves them out.
        hidden: weight of the hidden states; 0 leaves them out.
        temperature: softening of the class scores.
        scores: takes a network's output and returns its class scores (..., classes); by default the output itself,
            or the first floating point tensor in it.

    Raises:
        UsageError: one is no torch.nn.Module, or a recurrent layer of the student has no counterpart of its size
            in the teacher.

    Example:
        >>> import copy, trcompress
        >>> student = nn.Sequential(nn.Linear(6, 12), nn.LSTM(12, 8))
        >>> teacher = copy.deepcopy(student)
        >>> result = trcompress.compress_(student, trcompress.Plan.of("4x3:4x2", 2))
        >>> distill = DistillLoss(student, teacher, logits=0)
        >>> x = torch.randn(5, 3, 6)
        >>> output = student(x)
        >>> bool(distill(output, x) > 0)
        True
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        logits: float = 1.0,
        hidden: float = 1.0,
        temperature: float = 2.0,
        scores: Select | None = None,
    ) -> None:
        super().__init__()
        for network in (student, teacher):
            check_model(network)
        self.logits, self.hidden, self.temperature = logits, hidden, temperature
        self._scores = scores or _first_scores
        self._teacher = [teacher.eval()]  # a list hides it from nn.Module: it has no parameters of this loss
        self._names = _common(student, teacher) if hidden else []
        watched = (student, teacher) if hidden else ()
        self._seen = [_StateRecorder(network, self._names) for network in watched]

    def forward(self, output: Any, *inputs: Any, **named: Any) -> Tensor:
        """Compare with the teacher.

        Args:
            output: what the student gave for these inputs, in the forward pass just done.
            *inputs: what the teacher is called with.
            **named: the same, by name.

        Returns:
            The weighted sum, a mean over the batch.

        Raises:
            UsageError: the student was not run since the last call, or its layers were called another number of
                times in that pass than the teacher's.
        """
        teacher = self._teacher[0]
        for watch in self._seen[1:]:
            watch.take()  # of a run of the teacher that was not for this loss
        with torch.no_grad():
            answer = teacher(*inputs, **named)
        loss = torch.zeros((), device=next(teacher.parameters()).device)
        if self.logits:
            mine, theirs = (self._scores(one).flatten(0, -2).float() for one in (output, answer))
            loss = loss.to(mine.device)
            loss = loss + self.logits * softened_divergence(mine, theirs.to(mine.device), self.temperature).mean()
        if self.hidden:
            loss = loss + self.hidden * self._hidden_term().to(loss.device)
        return loss

    def close(self) -> None:
        """Take the hooks off both networks."""
        for watch in self._seen:
            watch.close()

    def __enter__(self) -> DistillLoss:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hidden_term(self) -> Tensor:
        mine, theirs = (watch.take() for watch in self._seen)
        if not mine:
            raise UsageError(
                "the student must run on the same inputs before each call of this loss: nothing was recorded; "
                "call student(...) in training, then loss(output, ...)"
            )
        terms = []
        for name in self._names:
            if len(mine.get(name, ())) != len(theirs.get(name, ())):
                raise UsageError(
                    f"{name} ran {len(mine.get(name, ()))} times in the student and {len(theirs.get(name, ()))} "
                    "times in the teacher: run the student once for each call of this loss"
                )
            terms += [_distance(own, other) for own, other in zip(mine[name], theirs[name], strict=True)]
        return torch.stack(terms).mean()


class _StateRecorder:
    """Hidden states of some modules, call by call, in the network's last forward pass, until they are taken."""

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        self._seen: dict[str, list[Tensor]] = {}
        self._handles = [network.register_forward_pre_hook(self._begin)]  # a validation loop between is not kept
        self._handles += [network.get_submodule(name).register_forward_hook(self._keeper(name)) for name in names]

    def take(self) -> dict[str, list[Tensor]]:
        """Give what was seen, and forget it."""
        seen, self._seen = self._seen, {}
        return seen

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen = {}

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            state = output[0] if isinstance(output, (tuple, list)) else output
            values = state.data if isinstance(state, PackedSequence) else state
            self._seen.setdefault(name, []).append(values)

        return keep


def _common(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Names of the recurrent layers that both have, of the same sizes."""
    own, others = (
        {name: module for name, module in network.named_modules() if is_recurrent(module)}
        for network in (student, teacher)
    )
    for name, module in own.items():
        if name not in others:
            raise UsageError(
                f"hidden states are compared by name: the teacher has no recurrent layer {name!r}"
                f"{nearest(name, list(others))}; name them alike, or give `hidden=0`"
            )
        sizes = [(one.hidden_size, getattr(one, "proj_size", 0)) for one in (module, others[name])]
        if sizes[0] != sizes[1]:
            raise UsageError(f"{name} has {sizes[0][0]} hidden units, the teacher's {sizes[1][0]}: give `hidden=0`")
    return list(own)


def _first_scores(output: Any) -> Tensor:
    found = [one for one in tensors_of(output) if one.is_floating_point() and one.dim() > 1]
    if not found:
        raise UsageError("class scores are (..., classes): the output holds no such tensor; say where, in `scores`")
    return found[0]


def _distance(mine: Tensor, theirs: Tensor) -> Tensor:
    """||mine - theirs||^2 / ||theirs||^2."""
    theirs = theirs.detach().to(mine.device).float()
    return F.mse_loss(mine.float(), theirs, reduction="sum") / (theirs.square().sum() + EPSILON)
