"""The kinds of recurrent layer, one entry each: gates, states and the names that PyTorch has for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Kind:
    """One kind of recurrent layer, as PyTorch builds it.

    Args:
        name: its key in `KINDS`, as the command line, recipes and artifacts spell it.
        gates: how many matrices PyTorch stacks in one weight.
        gate_order: their order from the top, as headers spell it; empty for one.
        module: class of a stack in torch.nn.
        cell: class of one time step in torch.nn.
        modes: `mode` of the torch.nn module -> its nonlinearity; the first is the default.
        states: tensors that are carried from step to step.
        projects: whether PyTorch has a `proj_size` for it.
        joined_biases: gates, from the top, that only see the sum of both biases.
        onnx_order: where the gates of ONNX's operator, which has the name of `module`, stand among PyTorch's.
        onednn: whether PyTorch leaves all of its time steps to one call of oneDNN, on CPUs.

    Example:
        >>> KINDS["gru"].gates, KINDS["gru"].module
        (3, 'GRU')
    """

    name: str
    gates: int
    gate_order: str
    module: str
    cell: str
    modes: Mapping[str, str] = field(hash=False)
    states: int = 1
    projects: bool = False
    joined_biases: int = 1
    onnx_order: tuple[int, ...] = (0,)
    onednn: bool = False

    @property
    def sums_biases(self) -> bool:
        """Return True where only the sum of both biases matters, so that one of them could be zero."""
        return self.joined_biases == self.gates

    @property
    def nonlinearities(self) -> tuple[str, ...]:
        """What the user may choose; empty where the kind has no choice."""
        names = tuple(self.modes.values())
        return names if len(names) > 1 else ()


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                name="lstm",
                gates=4,
                gate_order="i,f,g,o",
                module="LSTM",
                cell="LSTMCell",
                modes={"LSTM": "tanh"},
                states=2,
                projects=True,
                joined_biases=4,
                onnx_order=(0, 3, 1, 2),  # i, o, f, c
                onednn=True,
            ),
            Kind(
                name="gru",
                gates=3,
                gate_order="r,z,n",
                module="GRU",
                cell="GRUCell",
                modes={"GRU": "tanh"},
                joined_biases=2,  # n multiplies W_hn h + b_hn by r first
                onnx_order=(1, 0, 2),  # z, r, h
            ),
            Kind("rnn", 1, "", "RNN", "RNNCell", {"RNN_TANH": "tanh", "RNN_RELU": "relu"}),
        )
    }
)
"""Every kind of recurrent layer. What differs between kinds is read here, nowhere else."""


MODES: Mapping[str, Kind] = MappingProxyType({mode: kind for kind in KINDS.values() for mode in kind.modes})
"""The kind of a torch.nn module by its `mode`, as in `RNN_RELU`."""

TWO_STATES = frozenset(mode for mode, kind in MODES.items() if kind.states == 2)
"""The modes of torch.nn modules that take and give a pair of states."""


def kind_of_gates(gates: int) -> Kind | None:
    """Find the kind that stacks so many gates, or return None."""
    return next((kind for kind in KINDS.values() if kind.gates == gates), None)
