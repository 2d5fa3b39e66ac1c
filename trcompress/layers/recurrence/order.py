"""The order in which a direction visits the time steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Order(NamedTuple):
    """Where steps lie along the time axis.

    Args:
        first: index of the step that is visited first.
        last: of the one visited last.
        later: all steps but the first, along the axis.
        earlier: the step visited before each of `later`.
    """

    first: int
    last: int
    later: slice
    earlier: slice

    def steps(self, x: Tensor) -> Sequence[Tensor]:
        """Return the steps of a tensor whose first axis is time, in the order of the visit."""
        return x.unbind(0) if self.first == 0 else x.unbind(0)[::-1]

    def back(self, x: Tensor) -> Sequence[Tensor]:
        """Return the steps in the opposite order."""
        return x.unbind(0)[::-1] if self.first == 0 else x.unbind(0)


FORWARD = Order(0, -1, slice(1, None), slice(None, -1))
REVERSE = Order(-1, 0, slice(None, -1), slice(1, None))
