"""The dense network that a compressed one learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trcompress.classifier import Classifier
from trcompress.data import Split
from trcompress.distill import Recorder, Sequence
from trcompress.training.batches import Batch, ordered_requests, read_batches
from trcompress.training.distributed import Team


@dataclass(frozen=True)
class View:
    """What the teacher makes of a batch.

    Args:
        logits: (B, classes), on the batch's device.
        inputs: what entered each recurrent stack.
        outputs: its hidden states.
    """

    logits: Tensor
    inputs: Mapping[str, Sequence]
    outputs: Mapping[str, Sequence]


class Teacher:
    """A classifier that only answers.

    Args:
        classifier: the network.
        device: where it runs.
    """

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        self.classifier, self.device = classifier, device
        self.module = classifier.module.to(device).eval().requires_grad_(False)
        self.recurrent: Mapping[str, nn.Module] = classifier.recurrent
        self._recorder = Recorder(classifier.recurrent)
        self._known: Tensor | None = None

    def remember(self, split: Split, team: Team, *, classes: int, batch_size: int) -> None:
        """Answer a whole split once, each process its part; nothing is done where its rows are random."""
        if getattr(split.source, "random", True):
            return
        known = torch.zeros(len(split), classes, device=team.device)
        for batch in read_batches(split, ordered_requests(split, batch_size), team):
            known[torch.from_numpy(batch.indices)] += self.look(batch).logits * batch.mask.unsqueeze(1)
        team.sum_(known)
        self._known = known

    def recall(self, batch: Batch) -> View:
        """Give the remembered scores of a batch of that split, or look at it."""
        if self._known is None:
            return self.look(batch)
        return View(self._known[torch.from_numpy(batch.indices).to(self._known.device)], {}, {})

    @torch.no_grad()
    def look(self, batch: Batch) -> View:
        """Run the network on a batch."""
        self._recorder.clear()
        logits = self.module(batch.x.to(self.device), batch.lengths)
        return View(logits.to(batch.x.device), dict(self._recorder.inputs), dict(self._recorder.outputs))
