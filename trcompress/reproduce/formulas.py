"""Table 4's orders as numbers, with every constant at 1: multiply-adds, and floats kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class LayerSizes:
    """The letters of Table 4.

    Args:
        in_modes: (I_1 ... I_n).
        out_modes: (O_1 ... O_m).
        rank: R, all ranks alike.
        blocks: N, of the block term.
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    rank: int
    blocks: int = 1

    @property
    def inputs(self) -> int:
        """I."""
        return prod(self.in_modes)

    @property
    def outputs(self) -> int:
        """O."""
        return prod(self.out_modes)


@dataclass(frozen=True)
class Order:
    """One pair of lines of Table 4: how it is written there, and its value."""

    forward: tuple[str, Callable[[LayerSizes], int]]
    backward: tuple[str, Callable[[LayerSizes], int]]
    forward_memory: tuple[str, Callable[[LayerSizes], int]]
    backward_memory: tuple[str, Callable[[LayerSizes], int]]


def _dense(s: LayerSizes) -> int:
    return s.inputs * s.outputs


def _tt(s: LayerSizes) -> int:
    return len(s.in_modes) * s.inputs * s.rank**2 * max(s.out_modes)


def _tt_back(s: LayerSizes) -> int:
    return len(s.in_modes) ** 2 * s.inputs * s.rank**4 * max(s.out_modes)


def _bt(s: LayerSizes) -> int:
    d = len(s.in_modes)
    return s.blocks * d * s.inputs * s.rank**d * max(s.out_modes)


def _tr(s: LayerSizes) -> int:
    n, m = len(s.in_modes), len(s.out_modes)
    return n * s.inputs * s.rank**3 + m * s.outputs * s.rank**3


def _tr_back(s: LayerSizes) -> int:
    n, m = len(s.in_modes), len(s.out_modes)
    d = n + m
    return n * d * s.inputs * s.rank**5 + m * d * max(s.in_modes) * s.outputs * s.rank**5


ORDERS: dict[str, Order] = {
    "RNN": Order(("IO", _dense), ("IO", _dense), ("IO", _dense), ("IO", _dense)),
    "TT-RNN": Order(
        ("d I R^2 Omax", _tt),
        ("d^2 I R^4 Omax", _tt_back),
        ("R I", lambda s: s.rank * s.inputs),
        ("R^3 I", lambda s: s.rank**3 * s.inputs),
    ),
    "BT-RNN": Order(
        ("N d I R^d Omax", _bt),
        ("N d^2 I R^d Omax", lambda s: len(s.in_modes) * _bt(s)),
        ("R^d I", lambda s: s.rank ** len(s.in_modes) * s.inputs),
        ("R^d I", lambda s: s.rank ** len(s.in_modes) * s.inputs),
    ),
    "TR-RNN": Order(
        ("n I R^3 + m O R^3", _tr),
        ("n d I R^5 + m d Imax O R^5", _tr_back),
        ("R^2 I", lambda s: s.rank**2 * s.inputs),
        ("R^4 max(I, Imax O)", lambda s: s.rank**4 * max(s.inputs, max(s.in_modes) * s.outputs)),
    ),
}
"""Method -> its lines of Table 4."""
