"""The dense network that a compressed one learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trcompress.data import Split
from trcompress.network.classifier import Classifier
from trcompress.training.batches import Batch, ordered_requests, read_batches
from trcompress.training.distill import Recorder, padded
from trcompress.training.distributed import Team

MAX_REMEMBERED_BYTES = 2**29
"""Hidden states of a training part are kept up to this size; beyond it the teacher is asked every time."""


@dataclass(frozen=True)
class View:
    """What the teacher makes of a batch, on the batch's device.

    Args:
        logits: (B, classes), (B, T, classes) or (B, D).
        hidden: hidden states of each recurrent stack, (B, T, features), zero beyond a sequence's end.
    """

    logits: Tensor
    hidden: Mapping[str, Tensor]


class Teacher:
    """A classifier that only answers.

    Args:
        classifier: the network.
        device: where it runs.
    """

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        self.classifier, self.device = classifier, device
        self.module = classifier.module.to(device).eval().requires_grad_(False)
        self.recurrent = classifier.recurrent
        self._recorder = Recorder(classifier.recurrent)
        self._known: View | None = None

    @torch.no_grad()
    def look(self, batch: Batch) -> View:
        """Run the network on a batch."""
        self._recorder.clear()
        where = batch.x.device
        more = {name: value.to(self.device) for name, value in batch.more.items()}
        logits = self.module(batch.x.to(self.device), batch.lengths, **more)
        hidden = {
            name: padded(sequence, bool(self.recurrent[name].batch_first), where)[0]
            for name, sequence in self._recorder.outputs.items()
        }
        return View(logits.to(where), hidden)

    def remember(self, split: Split, team: Team, *, batch_size: int) -> None:
        """Answer a whole split once, each process its part; nothing is kept where its rows are random."""
        if getattr(split.source, "random", True) or not len(split):
            return
        known: View | None = None
        for batch in read_batches(split, ordered_requests(split, batch_size), team):
            view = self.look(batch)
            if known is None:
                known = _empty(view, len(split), split.source.shape[0])
                if sum(value.nbytes for value in known.hidden.values()) > MAX_REMEMBERED_BYTES:
                    return
            _put(known, view, batch)
        if known is not None:
            team.sum_(known.logits, *known.hidden.values())
        self._known = known

    def recall(self, batch: Batch) -> View:
        """Give what is remembered of a batch of that split, or look at it."""
        if self._known is None:
            return self.look(batch)
        rows = torch.from_numpy(batch.indices).to(batch.x.device)
        return View(self._known.logits[rows], {name: value[rows] for name, value in self._known.hidden.items()})


def _empty(view: View, rows: int, steps: int) -> View:
    hidden = {name: value.new_zeros(rows, steps, value.shape[2]) for name, value in view.hidden.items()}
    return View(view.logits.new_zeros(rows, *view.logits.shape[1:]), hidden)


def _put(known: View, view: View, batch: Batch) -> None:
    """Write a batch's answers into their rows; a filler's answers count nothing."""
    rows = torch.from_numpy(batch.indices).to(batch.x.device)
    known.logits[rows] += view.logits * batch.mask.view(-1, *[1] * (view.logits.dim() - 1))
    for name, value in view.hidden.items():
        known.hidden[name][rows, : value.shape[1]] += value * batch.mask[:, None, None]
