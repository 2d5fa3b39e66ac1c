"""Losses that pull a compressed network towards its dense teacher: class scores and hidden states.

Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531 (softened scores); differs: hidden states are compared
too, since rings keep the teacher's hidden units in place.

Every loss is one value per sequence, so that batches of any division average alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

Sequence = Tensor | PackedSequence

EPSILON = 1e-8


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of the softened class probabilities, times temperature squared: (B,).

    Example:
        >>> softened_divergence(torch.zeros(2, 3), torch.zeros(2, 3), 2.0)
        tensor([0., 0.])
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1) * temperature**2


def sequence_distance(student: Tensor, teacher: Tensor, lengths: Tensor | None) -> Tensor:
    """Return ||student - teacher||^2 / ||teacher||^2 over the valid steps of each sequence: (B,).

    Args:
        student: (B, T, F).
        teacher: (B, T, F).
        lengths: (B,), or None where all steps count.
    """
    distance, size = (student - teacher).square().sum(2), teacher.square().sum(2)  # (B, T)
    if lengths is not None:
        valid = torch.arange(distance.shape[1], device=distance.device) < lengths.to(distance.device).unsqueeze(1)
        distance, size = distance * valid, size * valid
    return distance.sum(1) / (size.sum(1) + EPSILON)


def padded(sequence: Sequence, batch_first: bool, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return any sequence as ((B, T, F) on the device, lengths or None)."""
    if isinstance(sequence, PackedSequence):
        values, lengths = pad_packed_sequence(sequence, batch_first=True)
        return values.to(device), lengths
    values = sequence if batch_first else sequence.transpose(0, 1)
    return values.to(device), None


def hidden_distance(student: Sequence, teacher: Tensor, batch_first: bool) -> Tensor:
    """Compare the student's hidden states with the teacher's (B, T or more, features): (B,)."""
    own, lengths = padded(student, batch_first, student.data.device)
    return sequence_distance(own.float(), teacher[:, : own.shape[1]].float(), lengths)


class Recorder:
    """Keeps what came out of each recurrent module in the last forward pass.

    Args:
        modules: by stack name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.outputs: dict[str, Sequence] = {}
        self._handles = [module.register_forward_hook(self._keeper(name)) for name, module in modules.items()]

    def clear(self) -> None:
        """Let go of the tensors."""
        self.outputs.clear()

    def close(self) -> None:
        """Stop recording."""
        self.clear()
        for handle in self._handles:
            handle.remove()

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.outputs[name] = output[0]

        return keep
