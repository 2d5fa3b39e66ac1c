"""What each form of a ring weight costs, in multiply-adds and in expected time, for a given number of rows.

The constants describe no particular machine: they only have to rank the forms of one weight, and a form other than
dense is chosen only where it wins clearly. Measured on x86-64 with oneDNN; see `benchmarks/never_slower.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from trcompress.formats.chain import merge_order
from trcompress.layers.evaluation.form import Form, Sizes
from trcompress.model.weight_plan import WeightPlan


@dataclass(frozen=True)
class Use:
    """How a weight is used.

    Args:
        rows: time steps times batch.
        training: gradients reach the cores, which change after every step; else the matrices are reused for ever.
        input_grad: the gradient with respect to x is wanted too.
        repacks: the kernel rearranges its weights at each call (oneDNN's LSTM), at a cost per value.
        gpu: on a device where products are cheap and launches dear.
    """

    rows: int
    training: bool = False
    input_grad: bool = False
    repacks: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class Estimate:
    """The price of one form.

    Args:
        form: what is priced.
        macs: multiply-adds of one call (or training step), the merging included where it is not kept.
        seconds: expected duration on the input side.
    """

    form: Form
    macs: int
    seconds: float


@dataclass(frozen=True)
class _Machine:
    mac_s: float  # one multiply-add of a large product, all threads
    byte_s: float  # one byte read or written once
    repack_byte_s: float  # one byte of weights that the kernel rearranges, in a forward pass
    repack_train_byte_s: float  # the same in forward and backward together, gradients included
    op_s: float  # issuing one operation

    def product(self, m: int, k: int, n: int) -> float:
        """Seconds for (m, k) @ (k, n)."""
        thin = min(m, k, n)
        compute = m * k * n * self.mac_s * (1 + 12 / thin)
        return max(compute, 4 * (m * k + k * n + m * n) * self.byte_s) + self.op_s


def machine(gpu: bool) -> _Machine:
    """Describe the device in the few constants that matter."""
    if gpu:
        return _Machine(1e-13, 2e-12, 2e-12, 6e-12, 6e-6)
    threads = torch.get_num_threads()
    return _Machine(2.8e-11 / threads, 6e-11, 3.5e-10 / threads**0.5, 2e-9 / threads**0.5, 4e-6)


def estimates(plan: WeightPlan, use: Use) -> list[Estimate]:
    """Price every form that fits the weight, the dense one first."""
    if plan.structure.bottleneck is None:
        return [_Pricing(plan, form, use).estimate() for form in (Form("dense"), Form("ring"))]
    splits = range(1, len(plan.structure.in_modes)) if plan.padded_input == plan.matrix.columns else ()
    forms = [Form("dense"), Form("merged"), *(Form("ring", split) for split in splits)]
    return [_Pricing(plan, form, use).estimate() for form in forms]


def dense_estimate(plan: WeightPlan, use: Use) -> Estimate:
    """Price torch.nn's own layer: the same kernel on a weight that needs no merging."""
    return _Pricing(plan, Form("dense"), use).kernel_alone()


def operations_per_step(plan: WeightPlan) -> int:
    """Multiply-adds from one input vector to the gates' pre-activations, in the form that has the fewest;
    columns that are padded for speed count.

    Example:
        >>> from trcompress.model.plan import Plan
        >>> from trcompress.model.matrix import Matrix
        >>> matrix = Matrix.input_to_hidden("weight_ih_l0", "lstm", 57600, 256)
        >>> operations_per_step(Plan.of("4x2x5x8x6x5x3x2:4x4x2x4x2", "5,10").resolve([matrix])[0]) < 2_000_000
        True
    """
    return min(estimate.macs for estimate in estimates(plan, Use(rows=1)))


def fastest_form(plan: WeightPlan, use: Use, margin: float = 0.85) -> Form:
    """Return the form expected to be fastest.

    Args:
        plan: the weight; its structure is a ring.
        use: how it is used.
        margin: forms other than dense must take at most this part of the dense form's time.
    """
    dense, *others = estimates(plan, use)
    best = min(others, key=lambda estimate: estimate.seconds)
    return best.form if best.seconds <= margin * dense.seconds else dense.form


@lru_cache(maxsize=4096)
def _merge_macs(chain: tuple[tuple[int, int, int], ...]) -> int:
    return merge_order(chain)[0]


class _Pricing:
    """Adds up the products of one form."""

    def __init__(self, plan: WeightPlan, form: Form, use: Use) -> None:
        self._plan, self._form, self._use = plan, form, use
        self._machine = machine(use.gpu)
        self._macs, self._seconds = 0, 0.0

    def estimate(self) -> Estimate:
        """Price the form in its use."""
        ring = self._plan.structure.bottleneck is not None
        if self._use.training:
            self._merging() if ring else self._expansion()
        if self._form.kind == "dense":
            self._kernel(self._plan.matrix.columns, self._use.input_grad)
        elif ring:
            self._bottleneck(Sizes.of(self._plan, self._form.split))
        else:
            self._paired()
        return Estimate(self._form, self._macs, self._seconds)

    def kernel_alone(self) -> Estimate:
        """Price the recurrent kernel's input product with a weight that is there."""
        self._kernel(self._plan.matrix.columns, self._use.input_grad)
        return Estimate(self._form, self._macs, self._seconds)

    def _product(self, m: int, k: int, n: int, times: int = 1) -> None:
        self._macs += times * m * k * n
        self._seconds += times * self._machine.product(m, k, n)

    def _differentiated(self, m: int, k: int, n: int, input_grad: bool = True) -> None:
        """One product forward and, in training, one or two of the same size backward."""
        self._product(m, k, n, 1 + self._use.training * (1 + input_grad))

    def _kernel(self, width: int, input_grad: bool) -> None:
        rows, outputs = self._use.rows, self._plan.matrix.rows
        self._differentiated(rows, width, outputs, input_grad)
        if self._use.repacks:
            rate = self._machine.repack_train_byte_s if self._use.training else self._machine.repack_byte_s
            self._seconds += 4 * width * outputs * rate

    def _bottleneck(self, sizes: Sizes) -> None:
        rows = self._use.rows
        self._differentiated(rows * sizes.prefix, sizes.suffix, sizes.columns, self._use.input_grad)
        if self._form.split:
            self._differentiated(rows * sizes.copies * sizes.rn, sizes.prefix * sizes.rs, sizes.r0)
            moved = rows * sizes.prefix * sizes.columns  # values put in order for that product
            self._seconds += 8 * moved * self._machine.byte_s * (1 + self._use.training)
        self._seconds += 2 * self._machine.op_s  # views
        self._kernel(sizes.width, True)

    def _merging(self) -> None:
        """Forward and backward through the chains, and the copies into the matrices."""
        ring, split, copies = self._plan.structure, self._form.split, self._plan.copies
        shapes, n = ring.core_shapes, len(ring.in_modes)
        chains = [shapes[:split], shapes[split:n], shapes[n:]]
        macs = sum(_merge_macs(chain) for chain in chains if chain) * copies
        sizes = Sizes.of(self._plan, split)
        values = sizes.suffix * sizes.columns + self._plan.matrix.rows * sizes.width
        self._macs += 3 * macs
        self._seconds += 3 * macs * self._machine.mac_s * 3 + 5 * 4 * values * self._machine.byte_s
        self._seconds += (3 * (len(shapes) - len(chains)) + 10) * self._machine.op_s
        if self._form.kind == "dense":
            width = ring.ranks[0] * ring.ranks[n]
            self._product(self._plan.matrix.rows, width, self._plan.matrix.columns, 3)

    def _paired(self) -> None:
        """A paired format ends in the outputs: the kernel's input weight is the identity."""
        macs = self._use.rows * self._plan.multiply_adds * (3 if self._use.training else 1)
        self._macs += macs
        self._seconds += 3 * macs * self._machine.mac_s + 20 * self._machine.op_s
        self._kernel(self._plan.matrix.rows, True)

    def _expansion(self) -> None:
        """Expand a paired format and carry the gradient of the dense weight back to its cores."""
        if self._form.kind == "dense":
            values = self._plan.matrix.parameters
            macs = 3 * values * max(self._plan.structure.core_shapes[-1][0], 4)
            self._macs += macs
            self._seconds += macs * self._machine.mac_s + 10 * 4 * values * self._machine.byte_s
