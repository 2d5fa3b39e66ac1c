"""Counting right and wrong answers on the device, over all processes, without waiting for the device each batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trcompress.errors import UsageError
from trcompress.training.distributed import Team

MOST_CONFUSED = 512
"""Classes up to which (true, given) pairs are counted: a vocabulary of 100,000 words would take 80 GB."""


@dataclass(frozen=True)
class Figures:
    """What a tally comes to.

    Args:
        sequences: how many were counted; for labelling, steps.
        accuracy: share whose highest score is the true class; None for regression.
        loss: mean cross-entropy with the true labels, or mean squared error.
        confusion: (true class, given class) counts; empty above `MOST_CONFUSED` classes, and for regression.
        top5: share whose true class is among the five highest scores; None below six classes.
        agreement: share where the teacher gives the same class; None without a teacher.
        rmse: root of the mean squared error, for regression.
        r2: share of the variance that is explained, for regression.
    """

    sequences: int
    accuracy: float | None
    loss: float
    confusion: tuple[tuple[int, ...], ...]
    top5: float | None = None
    agreement: float | None = None
    rmse: float | None = None
    r2: float | None = None

    @property
    def right(self) -> float:
        """The accuracy, of data that has classes.

        Raises:
            UsageError: the data holds numbers to be met.
        """
        return required_accuracy(self.accuracy)


def required_accuracy(accuracy: float | None) -> float:
    """Return an accuracy that must be there.

    Raises:
        UsageError: the data holds numbers to be met.
    """
    if accuracy is None:
        raise UsageError("an accuracy is for data with classes: this data holds numbers to be met")
    return accuracy


class Tally:
    """Sums over sequences: confusion, loss, top five, agreement."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        self.compared = False
        self._pairs = classes <= MOST_CONFUSED
        self._confusion = torch.zeros(classes**2 if self._pairs else 0, dtype=torch.float64, device=device)
        self._sums = torch.zeros(5, dtype=torch.float64, device=device)  # count, right, loss, top 5, agreement

    def add(self, logits: Tensor, y: Tensor, mask: Tensor, teacher: Tensor | None = None) -> None:
        """Count a batch: logits (B, classes), y (B,), mask (B,), teacher's logits (B, classes)."""
        logits, mask = logits.detach().double(), mask.double()
        given = logits.argmax(1)
        if self._pairs:
            self._confusion.index_add_(0, y * self.classes + given, mask)
        self._sums[0] += mask.sum()
        self._sums[1] += ((given == y) * mask).sum()
        loss = F.cross_entropy(logits, y, reduction="none")
        self._sums[2] += (loss * mask).sum()
        if self.classes > 5:
            self._sums[3] += ((logits.topk(5, dim=1).indices == y.unsqueeze(1)).any(1) * mask).sum()
        if teacher is not None:
            self.compared = True
            self._sums[4] += ((teacher.to(logits.device).argmax(1) == given) * mask).sum()

    def result(self, team: Team) -> Figures:
        """Add up over all processes and read the figures."""
        confusion, sums = self._confusion.clone(), self._sums.clone()
        team.sum_(sums, *([confusion] if self._pairs else []))
        counts = confusion.round().long().cpu().reshape(-1, self.classes)
        sequences, *summed = sums.tolist()
        right, loss, top5, agreement = (value / max(1.0, sequences) for value in summed)
        return Figures(
            sequences=round(sequences),
            accuracy=right,
            loss=loss,
            confusion=tuple(tuple(row) for row in counts.tolist()),
            top5=top5 if self.classes > 5 else None,
            agreement=agreement if self.compared else None,
        )


class ErrorTally:
    """Sums over sequences of a regression: squared errors, and what it takes to know the variance."""

    def __init__(self, outputs: int, device: torch.device) -> None:
        self._sums = torch.zeros(3 * outputs + 1, dtype=torch.float64, device=device)  # error, y, y^2; sequences
        self._outputs = outputs

    def add(self, answer: Tensor, y: Tensor, mask: Tensor, teacher: Tensor | None = None) -> None:
        """Count a batch: answers (B, D), truth (B, D), mask (B,)."""
        answer, y, mask = answer.detach().double(), y.double(), mask.double()
        parts = (mask @ (answer - y).square(), mask @ y, mask @ y.square(), mask.sum().reshape(1))
        self._sums += torch.cat(parts)

    def result(self, team: Team) -> Figures:
        """Add up over all processes and read the figures."""
        sums = self._sums.clone()
        team.sum_(sums)
        count = float(sums[-1])
        error, total, square = sums[:-1].cpu().reshape(3, self._outputs)
        varied = float((square - total.square() / max(1.0, count)).sum())
        loss = float(error.sum()) / max(1.0, count * self._outputs)
        r2 = 1 - float(error.sum()) / varied if varied > 0 else None
        return Figures(round(count), None, loss, (), rmse=loss**0.5, r2=r2)
