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

    @property
    def nonlinearities(self) -> tuple[str, ...]:
        """What the user may choose; empty where the kind has no choice."""
        names = tuple(self.modes.values())
        return names if len(names) > 1 else ()


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("lstm", 4, "i,f,g,o", "LSTM", "LSTMCell", {"LSTM": "tanh"}, states=2, projects=True),
            Kind("gru", 3, "r,z,n", "GRU", "GRUCell", {"GRU": "tanh"}),
            Kind("rnn", 1, "", "RNN", "RNNCell", {"RNN_TANH": "tanh", "RNN_RELU": "relu"}),
        )
    }
)
"""Every kind of recurrent layer. What differs between kinds is read here, nowhere else."""


TWO_STATES = frozenset(mode for kind in KINDS.values() if kind.states == 2 for mode in kind.modes)
"""The modes of torch.nn modules that take and give a pair of states."""


def kind_of_mode(mode: str) -> Kind:
    """Find the kind of a torch.nn module by its `mode`, as in `RNN_RELU`.

    Raises:
        KeyError: a mode that PyTorch does not have.

    Example:
        >>> kind_of_mode("RNN_RELU").name
        'rnn'
    """
    return next((kind for kind in KINDS.values() if mode in kind.modes), None) or KINDS[mode]


def kind_of_gates(gates: int) -> Kind | None:
    """Find the kind that stacks so many gates, or return None."""
    return next((kind for kind in KINDS.values() if kind.gates == gates), None)
