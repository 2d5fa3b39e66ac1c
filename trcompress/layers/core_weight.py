"""One weight kept as cores: the parameters of a ring layer, and the dense matrix they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trcompress.errors import ShapeError
from trcompress.formats import BlockTerm, TensorRing
from trcompress.layers.evaluation import Evaluator, Form, Use, Watched, cores_to_dense, ring_factors
from trcompress.layers.evaluation.cache import in_disguise
from trcompress.layers.evaluation.matrices import Matrices
from trcompress.layers.evaluation.norm import mean_square
from trcompress.layers.evaluation.watch import Stamp
from trcompress.model.plan import WeightPlan


class Remembered(NamedTuple):
    """What an evaluation left behind: the cores, until when it is right, (S, Q), the graph's buffers."""

    cores: dict[str, nn.Parameter | None]
    stamp: Stamp
    entry: tuple[Tensor, ...] | None
    buffers: Matrices | None


class CoreWeight(nn.Module):
    """The cores that stand for one weight of a recurrent or linear layer.

    Its parameters are `core.0`, `core.1`, ... so that the weight `weight_ih_l0` of a layer has the state-dict keys
    `weight_ih_l0.core.<k>`. Core k is `(r_k, n_k, r_{k+1})` for rings and trains; one ring per gate stores
    `(G, r_k, n_k, r_{k+1})`.

    Args:
        plan: sizes of the weight and the structure that replaces it.
        device: where the cores live.
        dtype: their type.

    Raises:
        ShapeError: (from `set_cores`) cores of other sizes than the plan's.

    Example:
        >>> from trcompress import Plan
        >>> from trcompress.model.matrix import Matrix
        >>> plan, = Plan.of("4x5:4x8", "3").resolve([Matrix.input_to_hidden("weight_ih_l0", "gru", 20, 32)])
        >>> weight = CoreWeight(plan)
        >>> weight.reset_parameters(variance=0.01)
        >>> tuple(weight.to_dense().shape), sum(core.numel() for core in weight.core)
        ((96, 20), 261)
    """

    def __init__(self, plan: WeightPlan, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.plan = plan
        self._evaluator = Evaluator(plan)
        lead = (plan.copies,) if plan.per_gate else ()
        self.core = nn.ParameterList(
            Watched(torch.empty(*lead, *shape, device=device, dtype=dtype)) for shape in plan.structure.core_shapes
        )

    @property
    def bottleneck(self) -> int:
        """K of the whole weight: the ring's own, times the gates where each has a ring."""
        structure = self.plan.structure
        if not isinstance(structure, TensorRing):
            raise ShapeError(f"only a tensor ring has a bottleneck: {self.plan.name} is a {structure.kind}")
        return structure.bottleneck * self.plan.copies

    def to_dense(self) -> Tensor:
        """Return the weight as PyTorch stores it, (G*H, I), differentiable in the cores."""
        return cores_to_dense(self.plan, list(self.core))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the ring's two matrices: A (I, K) and B (K, G*H), with A @ B the transposed weight.

        One ring per gate: the A's stand side by side, the B's form a block diagonal, so K is G times a gate's own.
        """
        return ring_factors(self.plan, list(self.core))

    def set_cores(self, cores: Sequence[Tensor]) -> None:
        """Copy these values into the cores.

        Raises:
            ShapeError: another number of cores, or a core of another shape.
        """
        want = [tuple(core.shape) for core in self.core]
        got = [tuple(core.shape) for core in cores]
        if want != got:
            raise ShapeError(
                f"{self.plan.name} takes {len(want)} cores of shapes {want}: got {got}; decompose it with this plan"
            )
        with torch.no_grad():
            for mine, theirs in zip(self.core, cores, strict=True):
                mine.copy_(theirs)

    def reset_parameters(self, variance: float) -> None:
        """Draw Gaussian cores such that the mean square of the dense weight is exactly `variance`.

        sigma = (variance / prod(R_k))^(1/2d), then one common factor: without it thirteen Gaussian cores scatter
        the norm by 0.3 to 2.6 times.

        Args:
            variance: of the dense weight's entries; torch.nn's own start is 1 / (3 * hidden_size).
        """
        if self.core[0].is_meta:
            return  # drawing nothing would import the compiler, five seconds
        sigma = (variance / prod(self._bonds())) ** (0.5 / len(self.core))
        with torch.no_grad():
            for core in self.core:
                core.normal_(0.0, sigma)
            scale = (variance / mean_square(self.plan, list(self.core))) ** (0.5 / len(self.core))
            for core in self.core:
                core.mul_(scale)

    def _bonds(self) -> list[int]:
        structure = self.plan.structure
        if isinstance(structure, BlockTerm):
            return [structure.blocks, *[structure.rank] * len(structure.in_modes)]
        return list(structure.ranks[:-1])

    @property
    def trains(self) -> bool:
        """Whether a core takes part in training."""
        return any(core.requires_grad for core in self._cores())

    def form(self, use: Use, strategy: str) -> Form:
        """Return how the weight is evaluated in this use; see `trcompress.layers.evaluation`."""
        if in_disguise():
            return self._evaluator.fixed_form(strategy)
        return self._evaluator.form(use, strategy)

    @property
    def last_form(self) -> Form | None:
        """The form of the latest evaluation, or None before the first."""
        return self._evaluator.last

    @property
    def kept_bytes(self) -> int:
        """Bytes of the matrices kept beside the cores, to be fast; none with the strategy "ring"."""
        return self._evaluator.kept_bytes

    def width(self, form: Form) -> int:
        """Values a step that `enter` produces."""
        return self._evaluator.width(form)

    def enter(self, x: Tensor, form: Form, keep: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return (z, V) with x @ W.T == z @ V.T, V None for the identity; for a form other than dense."""
        return self._evaluator.enter(x, self._cores(), form, keep)

    def weight(self, keep: bool = True) -> Tensor:
        """Return the dense weight; with `keep`, remembered until the cores change."""
        return self._evaluator.dense(self._cores(), keep)

    def remembered(self, form: Form) -> Remembered | None:
        """Return what is kept of a form, if the cores are still the ones it was computed from."""
        kept = self._evaluator.kept(form, self._cores())
        if kept is None:
            return None
        stamp, matrices, buffers = kept
        entry = (matrices[0], *matrices[2:]) if len(matrices) > 1 else None
        return Remembered(self.core._parameters, stamp, entry, buffers)

    def filled(self, form: Form) -> Matrices | None:
        """Return buffers that hold the form's matrices as the cores are now, if a training pass left any."""
        return self._evaluator.filled(form, self._cores())

    def forget(self) -> None:
        """Drop everything computed from the cores; the next use computes it again."""
        self._evaluator.clear()

    def train(self, mode: bool = True) -> CoreWeight:
        """Set the mode; what the other mode kept is dropped."""
        if mode != self.training:
            self.forget()
        return super().train(mode)

    def _cores(self) -> list[Any]:
        return [*self.core._parameters.values()]

    def _apply(self, *args: Any, **kwargs: Any) -> CoreWeight:
        self.forget()
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed again: copies and pickles hold the cores alone."""
        return {name: value for name, value in self.__dict__.items() if name != "_evaluator"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._evaluator = Evaluator(self.plan)

    def extra_repr(self) -> str:
        """What `print(layer)` shows."""
        plan = self.plan
        gates = f"{plan.copies} rings, one per gate, " if plan.per_gate else ""
        return f"{plan.structure}, {gates}{plan.parameters:,} values for {plan.matrix.parameters:,}"
