"""The ways to evaluate one ring weight, and the sizes of the matrices that each of them needs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from trcompress.model.weight_plan import WeightPlan

KINDS = ("ring", "merged", "dense")


@dataclass(frozen=True)
class Form:
    """One way to evaluate a weight.

    Args:
        kind: "ring" contracts the inputs with the merged cores split+1..n, then with the merged cores 1..split;
            "merged" with all input cores merged into A (I, K); both feed the recurrent kernel K values a step.
            "dense" materialises the weight.
        split: input cores left of the cut; 0 for the other kinds.
        offset: first column of this weight's share of the kernel's input, where two directions share it.
        columns: width of the kernel's input; 0 for this weight's own.
    """

    kind: str
    split: int = 0
    offset: int = 0
    columns: int = 0

    def __str__(self) -> str:
        return f"{self.kind}, cut after {self.split} input cores" if self.split else self.kind


@dataclass(frozen=True)
class Sizes:
    """The sizes of a ring's matrices at one split: x (N * prefix, suffix) @ S, then (N, prefix * columns) @ Q.

    `columns` and `width` are rounded up with zeros where thin products gain by it: 25 columns take longer than 32.
    """

    copies: int
    r0: int
    rs: int
    rn: int
    prefix: int
    suffix: int

    @classmethod
    def of(cls, plan: WeightPlan, split: int) -> Sizes:
        """Read the sizes off a plan whose structure is a ring."""
        ring = plan.structure
        modes, ranks = ring.in_modes, ring.ranks
        suffix = prod(modes[split:]) if split else plan.matrix.columns
        return cls(plan.copies, ranks[0], ranks[split], ranks[len(modes)], prod(modes[:split]), suffix)

    @property
    def columns(self) -> int:
        """Columns of S: (copies, rs, rn), rounded up."""
        return round_up(self.copies * self.rs * self.rn)

    @property
    def width(self) -> int:
        """K of all copies, (copies, r0, rn), rounded up: what the kernel is fed."""
        return round_up(self.copies * self.r0 * self.rn)


def round_up(size: int) -> int:
    """Round up to whole vector registers where that adds a third at most.

    Example:
        >>> [round_up(size) for size in (3, 25, 50, 64)]
        [3, 32, 64, 64]
    """
    for multiple in (16, 8, 4):
        rounded = -(-size // multiple) * multiple
        if rounded * 10 <= size * 13:
            return rounded
    return size
