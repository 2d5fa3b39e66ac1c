"""What a network is trained and measured for: a class a sequence, a class a step, or numbers to be met."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trcompress.data import DataSet
from trcompress.errors import InputFileError
from trcompress.training.batches import Batch
from trcompress.training.distill import EPSILON, softened_divergence


@dataclass(frozen=True)
class Task:
    """Shapes and losses of one task; every loss is one value per sequence, (B,).

    Args:
        kind: one of `trcompress.data.dataset.TASKS`.
        outputs: scores per sequence or step, or numbers per sequence.
    """

    kind: str = "classification"
    outputs: int = 0

    @classmethod
    def of(cls, data: DataSet) -> Task:
        """The task of a data set."""
        return cls(data.task, len(data.classes))

    @property
    def has_classes(self) -> bool:
        """Whether answers are right or wrong."""
        return self.kind != "regression"

    def check(self, answer: Tensor, batch: Batch) -> None:
        """Refuse answers of another shape.

        Raises:
            InputFileError: it says what the network gives, and for what.
        """
        steps = batch.y.shape[1:] if self.kind == "labelling" else ()
        if self.outputs and tuple(answer.shape) != (len(batch.y), *steps, self.outputs):
            what = "number per output" if self.kind == "regression" else "score per class"
            raise InputFileError(
                f"the network must give one {what}{' and step' if steps else ''}: got {tuple(answer.shape)} for "
                f"{len(batch.y)} sequences{f' of {steps[0]} steps' if steps else ''} of {self.outputs} classes"
            )

    def loss(self, answer: Tensor, batch: Batch, weights: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return how wrong answers are: cross-entropy (a mean over valid steps), or mean squared error.

        Args:
            answer: (B, classes), (B, T, classes) or (B, D).
            batch: with the truth.
            weights: (classes,) of the cross-entropy.
            smoothing: of the labels.
        """
        if self.kind == "regression":
            return (answer - batch.y).square().mean(1)
        if self.kind == "classification":
            return F.cross_entropy(answer, batch.y, weights, reduction="none", label_smoothing=smoothing)
        valid = batch.valid
        each = F.cross_entropy(
            answer.flatten(0, 1),
            batch.y.clamp_min(0).flatten(),
            weights,
            reduction="none",
            label_smoothing=smoothing,
        ).view(valid.shape)
        return (each * valid).sum(1) / valid.sum(1).clamp_min(1)

    def teacher_loss(self, answer: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Return how far answers are from the teacher's: softened divergence, or relative squared distance."""
        if self.kind == "regression":
            return (answer - teacher).square().sum(1) / (teacher.square().mean(0).sum() + EPSILON)
        if self.kind == "classification":
            return softened_divergence(answer, teacher, temperature)
        valid = batch.valid
        each = softened_divergence(answer.flatten(0, 1), teacher.flatten(0, 1), temperature).view(valid.shape)
        return (each * valid).sum(1) / valid.sum(1).clamp_min(1)

    def right(self, answer: Tensor, batch: Batch) -> Tensor:
        """Return the share of right answers of each sequence; zeros where there are only numbers."""
        if self.kind == "regression":
            return answer.new_zeros(len(answer))
        hits = (answer.argmax(-1) == batch.y).to(torch.float64)
        if self.kind == "classification":
            return hits
        return (hits * batch.valid).sum(1) / batch.valid.sum(1).clamp_min(1)

    def rows(self, answer: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return (scores, truth, mask) with one row per answer that is counted: a sequence, or a step."""
        if self.kind != "labelling":
            return answer, batch.y, batch.mask
        mask = batch.mask.unsqueeze(1) * batch.valid
        return answer.flatten(0, 1), batch.y.clamp_min(0).flatten(), mask.flatten()
