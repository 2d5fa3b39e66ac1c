"""One matrix of a network that a plan can name, from a file or from a live module. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from trcompress.model.kinds import KINDS

MATRIX_ROLES = ("ih", "hh", "hr", "embedding", "linear")
"""Input to hidden, hidden to hidden, hidden to projection, a table of vectors, a linear layer."""


@dataclass(frozen=True)
class Matrix:
    """One matrix as PyTorch stores it: (rows, columns), the gates of a recurrent layer stacked in its rows.

    Args:
        key: its key in the state dict, `rnn.weight_ih_l0`.
        role: one of `MATRIX_ROLES`.
        rows: outputs, all gates.
        columns: inputs.
        gates: how many equal blocks its rows stack; 1 outside recurrent layers.
        kind: of its recurrent layer, a key of `KINDS`; empty outside recurrent layers.
        stack: the module that owns it, `rnn`; empty at the root.
        index: of its layer in the stack.
        reverse: whether its layer is the backward direction.

    Example:
        >>> matrix = Matrix.input_to_hidden("rnn.weight_ih_l0", "lstm", 57600, 256, stack="rnn")
        >>> matrix.rows, matrix.layer_name
        (1024, 'rnn.l0')
    """

    key: str
    role: str
    rows: int
    columns: int
    gates: int = 1
    kind: str = ""
    stack: str = ""
    index: int = 0
    reverse: bool = False

    @classmethod
    def input_to_hidden(
        cls,
        key: str,
        kind: str,
        input_size: int,
        hidden_size: int,
        stack: str = "",
        index: int = 0,
        reverse: bool = False,
    ) -> Matrix:
        """Describe the input-to-hidden weight of one layer by the layer's sizes."""
        gates = KINDS[kind].gates
        return cls(key, "ih", gates * hidden_size, input_size, gates, kind, stack, index, reverse)

    @property
    def gate_rows(self) -> int:
        """Rows of one gate: the hidden size, for the weights that feed a hidden state."""
        return self.rows // self.gates

    @property
    def parameters(self) -> int:
        """Values in the dense matrix."""
        return self.rows * self.columns

    @property
    def layer_name(self) -> str:
        """`rnn.l0`, `rnn.l1_reverse`; `l0` at the root; the module alone outside recurrent layers."""
        if not self.kind:
            return self.stack
        leaf = f"l{self.index}" + ("_reverse" if self.reverse else "")
        return f"{self.stack}.{leaf}" if self.stack else leaf

    def describe(self) -> str:
        """Sizes in words."""
        return f"{self.kind or self.role} {self.columns:,} -> {self.gates} x {self.gate_rows:,}"


def glob_matches(pattern: str, matrix: Matrix) -> bool:
    """Return True where a `layer` glob names this matrix, by key, by stack or by layer."""
    return any(fnmatchcase(name, pattern) for name in (matrix.key, matrix.stack, matrix.layer_name))
