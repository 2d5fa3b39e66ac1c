"""The network that learns, together with its loss: the module that DistributedDataParallel wraps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trcompress.data import Split
from trcompress.errors import UsageError
from trcompress.network.classifier import Classifier
from trcompress.training.batches import Batch
from trcompress.training.distill import Recorder, hidden_distance
from trcompress.training.settings import FinetuneSettings
from trcompress.training.tasks import Task
from trcompress.training.teacher import Teacher, View

CLASSIFICATION = Task()
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ONEDNN_HAS = {
    "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
    "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
}


class Learner(nn.Module):
    """A student and the sum of its loss terms.

    Args:
        student: the network.
        settings: weights of the terms.
        class_weights: (classes,) weight of each class in the cross-entropy.
        teacher: the network to learn from, if any.
        task: what is learned.

    Raises:
        UsageError: a term needs a teacher, or one that fits the student's layers.
    """

    class_weights: Tensor

    def __init__(
        self,
        student: Classifier,
        settings: FinetuneSettings,
        class_weights: Tensor,
        teacher: Teacher | None = None,
        task: Task = CLASSIFICATION,
    ) -> None:
        super().__init__()
        self.task = task
        self.network = student.module
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._settings, self._weights = settings, settings.distill
        self._teacher = [] if teacher is None else [teacher]  # a list hides it from nn.Module
        self._batch_first = {name: bool(module.batch_first) for name, module in student.recurrent.items()}
        self._recorder: Recorder | None = None
        if teacher and self._weights.hidden:
            if misfit := hidden_misfit(student, teacher):
                raise UsageError(misfit)
            self._recorder = Recorder(student.recurrent)

    def forward(self, batch: Batch, label_total: float, count: int) -> tuple[Tensor, Tensor]:
        """Return (loss, logits); the loss is this batch's part of the mean over an optimizer step.

        Args:
            batch: this process's sequences.
            label_total: sum of the class weights over all sequences of the step.
            count: number of all sequences of the step.
        """
        view = self._view(batch)
        with mixed_precision(self._settings.amp, batch.x.device):
            numbers = batch.x.is_floating_point()
            x = F.dropout(batch.x, self._settings.input_dropout, self.training) if numbers else batch.x
            logits = self.network(x, batch.lengths, **batch.more)
        self.task.check(logits, batch)
        logits = logits.float()
        smoothing = self._settings.label_smoothing
        loss = self.task.loss(logits, batch, self.class_weights, smoothing) @ batch.mask / label_total
        if view is not None:
            loss = self._weights.labels * loss + self._teacher_term(logits, view, batch) @ batch.mask / count
        return loss, logits.detach()

    def close(self) -> None:
        """Take the recording hooks off the student."""
        if self._recorder is not None:
            self._recorder.close()

    @property
    def remembers(self) -> bool:
        """True where all that is asked of the teacher can be asked once for each training sequence."""
        weights = self._weights
        return bool(self._teacher and (weights.logits or weights.hidden))

    def _view(self, batch: Batch) -> View | None:
        return self._teacher[0].recall(batch) if self.remembers else None

    def _teacher_term(self, logits: Tensor, view: View, batch: Batch) -> Tensor:
        weights, total = self._weights, logits.new_zeros(len(logits))
        if weights.logits:
            softened = self.task.teacher_loss(logits, view.logits.float(), batch, weights.temperature)
            total = total + weights.logits * softened
        if self._recorder is not None:
            own = self._recorder.outputs
            distances = [
                hidden_distance(own[name], view.hidden[name], batch_first)
                for name, batch_first in self._batch_first.items()
            ]
            total = total + float(weights.hidden or 0) * torch.stack(distances).mean(0)
            self._recorder.clear()
        return total


@contextmanager
def mixed_precision(amp: str, device: torch.device) -> Iterator[None]:
    """Run recurrent kernels in a shorter type; on CPUs whose oneDNN has none, through PyTorch's plain kernels."""
    if amp == "off":
        yield
        return
    with ExitStack() as stack:
        if device.type == "cpu" and not _ONEDNN_HAS[amp]():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about TF32 on Intel GPUs
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.autocast(device.type, dtype=AMP_TYPES[amp]))
        yield


def class_weights(setting: str | tuple[float, ...], split: Split, classes: int) -> Tensor:
    """Return (classes,) weights of the cross-entropy; "balanced" gives every class the same sum.

    Raises:
        UsageError: as many weights as classes are needed.
    """
    if setting == "none":
        return torch.ones(classes)
    if split.labels.ndim > 1:
        raise UsageError("`class_weights` are for data with one class a sequence: leave them out")
    if setting == "balanced":
        counts = np.bincount(split.labels, minlength=classes)
        return torch.from_numpy(len(split) / (classes * np.maximum(counts, 1))).float()
    if len(setting) != classes:
        raise UsageError(f"class_weights must have one number per class: got {len(setting)} for {classes} classes")
    return torch.tensor(setting, dtype=torch.float32)


def hidden_misfit(student: Classifier, teacher: Teacher) -> str | None:
    """Say why hidden states cannot be compared, or return None where they can."""
    for name, module in student.recurrent.items():
        other = teacher.recurrent.get(name)
        sizes = [
            [getattr(one, size, None) for size in ("hidden_size", "proj_size", "bidirectional")]
            for one in (module, other)
        ]
        if sizes[0] != sizes[1]:
            return (
                f"hidden-state distillation needs a teacher with the model's stacks: stack {name!r} has "
                f"hidden size, projection and directions {sizes[0]}, the teacher's {sizes[1]}"
            )
    return None
