"""The weights that a plan can name, whether they come from a checkpoint file or from a live module."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""How many gates PyTorch stacks in one weight of each kind."""


@dataclass(frozen=True)
class WeightSlot:
    """One input-to-hidden weight of one layer and direction.

    Args:
        name: its key in the state dict, `rnn.weight_ih_l0`.
        kind: "lstm", "gru" or "rnn".
        input_size: columns of the stored matrix.
        gates: 4, 3 or 1.
        hidden_size: rows of the stored matrix per gate.
        stack: the module that owns it, `rnn`; empty at the root.
        layer: index in the stack.
        reverse: the backward direction.
    """

    name: str
    kind: str
    input_size: int
    gates: int
    hidden_size: int
    stack: str = ""
    layer: int = 0
    reverse: bool = False

    @property
    def output_size(self) -> int:
        """Rows of the stored matrix: all gates."""
        return self.gates * self.hidden_size

    @property
    def parameters(self) -> int:
        """Values in the dense matrix."""
        return self.input_size * self.output_size

    @property
    def layer_name(self) -> str:
        """`rnn.l0`, `rnn.l1_reverse`; `l0` at the root."""
        leaf = f"l{self.layer}" + ("_reverse" if self.reverse else "")
        return f"{self.stack}.{leaf}" if self.stack else leaf

    def describe(self) -> str:
        """Sizes in words."""
        return f"{self.kind} {self.input_size:,} -> {self.gates} x {self.hidden_size:,}"


def glob_matches(pattern: str, slot: WeightSlot) -> bool:
    """Whether a `layer` glob names this weight, by key, by stack or by layer."""
    return any(fnmatchcase(name, pattern) for name in (slot.name, slot.stack, slot.layer_name))
