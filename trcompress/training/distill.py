"""Losses that pull a compressed network towards its dense teacher: class scores, hidden states, gate inputs.

Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531 (softened scores); differs: hidden states and gate
inputs are compared too, since rings keep the teacher's hidden units in place.

Every loss is one value per sequence, so that batches of any division average alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from trcompress.errors import UsageError
from trcompress.formats import TensorRing
from trcompress.layers import CoreWeight

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


def relative_distance(student: Tensor, teacher: Tensor, lengths: Tensor | None) -> Tensor:
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
    return relative_distance(own.float(), teacher[:, : own.shape[1]].float(), lengths)


class Recorder:
    """Keeps what went into and came out of each recurrent module in the last forward pass.

    Args:
        modules: by stack name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.inputs: dict[str, Sequence] = {}
        self.outputs: dict[str, Sequence] = {}
        self._handles = [module.register_forward_hook(self._keeper(name)) for name, module in modules.items()]

    def clear(self) -> None:
        """Let go of the tensors."""
        self.inputs.clear()
        self.outputs.clear()

    def close(self) -> None:
        """Stop recording."""
        self.clear()
        for handle in self._handles:
            handle.remove()

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.inputs[name], self.outputs[name] = args[0], output[0]

        return keep


def ring_weights(module: nn.Module) -> dict[str, CoreWeight]:
    """The compressed weights of one recurrent module, by local name (`weight_ih_l0`)."""
    return {name: child for name, child in module.named_children() if isinstance(child, CoreWeight)}


class GateInputs:
    """What a dense recurrent module's inputs add to its gates, layer by layer: `W_ih x + b_ih`.

    Args:
        dense: the teacher's module.
        ring: the student's module with the same sizes.
        name: the stack, for messages.

    Raises:
        UsageError: the teacher's module is not a dense one of the same sizes.
    """

    def __init__(self, dense: nn.Module, ring: nn.Module, name: str) -> None:
        sizes = ("input_size", "hidden_size", "num_layers", "bidirectional")
        same = all(getattr(dense, size, None) == getattr(ring, size, None) for size in sizes)
        if not isinstance(dense, nn.RNNBase) or not same:
            raise UsageError(
                f"gate distillation needs the dense network that was compressed as teacher: its stack {name!r} is "
                f"{dense}, the compressed one {ring}"
            )
        self.dense, self.ring = dense, ring
        self._layers = [_single_layer(dense, layer) for layer in range(dense.num_layers - 1)]

    def distance(self, sequence: Sequence) -> list[Tensor]:
        """Return one (B,) relative distance per compressed weight, at the teacher's own layer inputs."""
        inputs = [sequence]
        with torch.no_grad():
            for single in self._layers:
                inputs.append(single(inputs[-1])[0])
        return [self._distance_of(name, weight, inputs) for name, weight in ring_weights(self.ring).items()]

    def _distance_of(self, name: str, weight: CoreWeight, inputs: list[Sequence]) -> Tensor:
        layer = int(name.removeprefix("weight_ih_l").removesuffix("_reverse"))
        bias = name.replace("weight", "bias") if self.dense.bias else None
        with torch.no_grad():
            steps, lengths = padded(inputs[layer], self.dense.batch_first, inputs[layer].data.device)
            wanted = F.linear(steps, getattr(self.dense, name), None if bias is None else getattr(self.dense, bias))
        device = weight.core[0].device
        got = _project(weight, steps.to(device))
        if bias is not None:
            got = got + getattr(self.ring, bias)
        return relative_distance(got.float(), wanted.to(device).float(), lengths)


def _project(weight: CoreWeight, x: Tensor) -> Tensor:
    """Multiply inputs with a compressed weight: (B, T, I) -> (B, T, G * H)."""
    if isinstance(weight.plan.structure, TensorRing):
        A, B = weight.factors()
        return (x @ A) @ B
    return F.linear(x, weight.to_dense())


def _single_layer(module: nn.RNNBase, layer: int) -> nn.RNNBase:
    """Make one layer of a stack a module of its own that shares the weights."""
    directions = 2 if module.bidirectional else 1
    own = module.proj_size or module.hidden_size
    extra = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNN) else {}
    make: Any = type(module)
    single = make(
        module.input_size if layer == 0 else own * directions,
        module.hidden_size,
        bias=module.bias,
        batch_first=module.batch_first,
        bidirectional=module.bidirectional,
        device="meta",
        **({"proj_size": module.proj_size} if module.proj_size else {}),
        **extra,
    )
    state = {
        name.replace(f"_l{layer}", "_l0"): value
        for name, value in module.state_dict().items()
        if name.removesuffix("_reverse").endswith(f"_l{layer}")
    }
    single.load_state_dict(state, assign=True)
    return single.eval()
