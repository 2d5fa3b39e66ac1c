"""What one time step costs on the input side, in multiply-adds. No torch here."""

from __future__ import annotations

from math import prod

from trcompress.formats import TensorRing
from trcompress.plan import WeightPlan


def operations_per_step(weight: WeightPlan) -> int:
    """Multiply-adds from one input vector to the gates' pre-activations, in the cheapest form.

    Cores are merged beforehand, once for all steps. A ring is evaluated over a suffix of its input modes first,
    then over the rest, or as its two merged factors; where that costs more than the dense matrix, dense counts.

    Example:
        >>> from trcompress.plan import Plan
        >>> from trcompress.slots import WeightSlot
        >>> slot = WeightSlot("weight_ih_l0", "lstm", 57600, 4, 256)
        >>> weight, = Plan.of("4x2x5x8x6x5x3x2:4x4x2x4x2", "5,10").resolve([slot])
        >>> operations_per_step(weight)
        1492200
    """
    dense = weight.slot.parameters
    ring = weight.structure
    if not isinstance(ring, TensorRing):
        return dense
    r0, rn = ring.ranks[0], ring.ranks[len(ring.in_modes)]
    size, bottleneck = weight.padded_input, weight.copies * ring.bottleneck
    bottlenecks = [size * r0 * rn]
    for split in range(1, len(ring.in_modes)):
        rank, prefix = ring.ranks[split], prod(ring.in_modes[:split])
        bottlenecks.append(size * rank * rn + prefix * rank * r0 * rn)
    return min(dense, weight.copies * min(bottlenecks) + bottleneck * weight.slot.output_size)
