"""One recurrent layer in one direction, described alike for files, plans, headers and modules. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from trcompress.model.kinds import KINDS
from trcompress.model.matrix import Matrix

ROLES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
"""Every parameter that a layer may have, by its name in torch.nn."""


@dataclass(frozen=True)
class Layer:
    """One recurrent layer in one direction, compressed or not: what it takes to build it again.

    Args:
        stack: module path of the stack, `encoder.rnn`; "" at the root; "enc" for `enc_w_ih`.
        kind: a key of `KINDS`.
        index: of the layer in its stack.
        reverse: the backward direction.
        input_size: columns of weight_ih.
        hidden_size: units.
        proj_size: size of the projected hidden state, 0 where there is no projection.
        cell: named like an LSTMCell, GRUCell or RNNCell, without `_l0`.
        nonlinearity: "tanh" or "relu", of an RNN; "tanh" where the file does not tell.
        batch_first: of the module it came from; False where the file does not tell.
        dropout: between the layers, of the module it came from; 0 where the file does not tell.
        keys: role -> key in the state dict; the roles are `ROLES`.
        decided_by: how the kind was decided, in one sentence; empty where nothing was to be decided.
    """

    stack: str
    kind: str
    index: int
    reverse: bool
    input_size: int
    hidden_size: int
    proj_size: int = 0
    cell: bool = False
    nonlinearity: str = "tanh"
    batch_first: bool = False
    dropout: float = 0.0
    keys: Mapping[str, str] = field(default_factory=dict, hash=False)
    decided_by: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """`rnn.l0`, `rnn.l1_reverse`; `l0` at the root."""
        return self.matrix("ih").layer_name

    @property
    def gates(self) -> int:
        """How many gates its weights stack."""
        return KINDS[self.kind].gates

    @property
    def output_size(self) -> int:
        """Size of what it hands on: the projection, or the hidden state."""
        return self.proj_size or self.hidden_size

    @property
    def direction(self) -> str:
        """Spell `reverse` in words: forward or backward."""
        return "backward" if self.reverse else "forward"

    @property
    def options(self) -> dict[str, Any]:
        """What a torch.nn module takes beside its sizes."""
        return {"batch_first": self.batch_first, "dropout": self.dropout, "nonlinearity": self.nonlinearity}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Role -> shape of every parameter it has."""
        rows = self.gates * self.hidden_size
        every = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.output_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
            "weight_hr": (self.proj_size, self.hidden_size),
        }
        return {role: every[role] for role in self.keys}

    @property
    def parameters(self) -> int:
        """Values in all its tensors."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Every matrix it has, in the order of `ROLES`."""
        roles = [role.removeprefix("weight_") for role in ROLES if role in self.keys and role.startswith("weight_")]
        return tuple(self.matrix(role) for role in roles)

    def matrix(self, role: str) -> Matrix:
        """Describe one of its matrices as plans name it.

        Args:
            role: "ih", "hh" or "hr".

        Raises:
            KeyError: the layer has no such matrix.
        """
        rows, columns = self.shapes[f"weight_{role}"]
        gates = 1 if role == "hr" else self.gates
        key = self.keys[f"weight_{role}"]
        return Matrix(key, role, rows, columns, gates, self.kind, self.stack, self.index, self.reverse)

    def local_name(self, role: str) -> str:
        """Name a parameter as the module has it: `weight_ih_l0_reverse`, or `weight_ih` in a cell."""
        return role if self.cell else f"{role}_l{self.index}" + ("_reverse" if self.reverse else "")


def by_stack(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """Group layers by the stack they belong to, in order of index, forward before backward."""
    stacks: dict[str, list[Layer]] = {}
    for layer in layers:
        stacks.setdefault(layer.stack, []).append(layer)
    return {name: sorted(group, key=lambda one: (one.index, one.reverse)) for name, group in stacks.items()}


def input_matrices(layers: Iterable[Layer]) -> list[Matrix]:
    """List the input-to-hidden matrices of layers, as plans name them."""
    return [layer.matrix("ih") for layer in layers]
