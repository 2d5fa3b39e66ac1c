"""The dense network that a compressed one learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trcompress.classifier import Classifier
from trcompress.distill import Recorder, Sequence
from trcompress.training.batches import Batch


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

    @torch.no_grad()
    def look(self, batch: Batch) -> View:
        """Run the network on a batch."""
        self._recorder.clear()
        logits = self.module(batch.x.to(self.device), batch.lengths)
        return View(logits.to(batch.x.device), dict(self._recorder.inputs), dict(self._recorder.outputs))
