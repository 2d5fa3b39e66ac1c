"""One weight kept as cores: the parameters of a ring layer, and the dense matrix they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.errors import ShapeError, UsageError
from trcompress.formats import as_ring
from trcompress.layers.evaluation import Evaluator, Form, Use
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.figures import size
from trcompress.util.memory import available_bytes

ASKED_FROM = 2**28
"""Bytes of cores from which the machine is asked for its free memory."""


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
        ShapeError: cores that do not fit into memory; from `set_cores`: cores of other sizes than the plan's.

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
        _check_room(plan, device, dtype or torch.get_default_dtype())
        self.plan = plan
        self._evaluator = Evaluator(plan)
        self.core = nn.ParameterList(
            nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) for shape in plan.core_shapes
        )

    @property
    def bottleneck(self) -> int:
        """K of the whole weight: the ring's own, times the gates where each has a ring."""
        ring = as_ring(self.plan.structure, f"{self.plan.name}: only a tensor ring has a bottleneck")
        return ring.bottleneck * self.plan.copies

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense weight, (G*H, I), as of torch.nn's parameter."""
        return torch.Size((self.plan.matrix.rows, self.plan.matrix.columns))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the cores."""
        return self.cores()[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the cores live."""
        return self.cores()[0].device

    def cores(self) -> list[Tensor]:
        """Return the cores as they are now: parameters, or what pruning and parametrizations make of them."""
        holder = self.core
        for hook in holder._forward_pre_hooks.values():  # a ParameterList is never called, which would apply masks
            hook(holder, ())
        return [core if isinstance(core, Tensor) else core.to_dense() for core in holder]  # or kept as integers

    def to_dense(self) -> Tensor:
        """Return the weight as PyTorch stores it, (G*H, I), differentiable in the cores."""
        return self.plan.to_dense(self.cores())

    def factors(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return the ring's two matrices: A (I, K) and B (K, G*H), with A @ B the transposed weight.

        One ring per gate: the A's stand side by side, the B's form a block diagonal, so K is G times a gate's own.

        Args:
            dtype: in which the cores are merged; None for their own.
        """
        return self.plan.factors([core.to(dtype or core.dtype) for core in self.cores()])

    def set_cores(self, cores: Sequence[Tensor]) -> None:
        """Copy these values into the cores.

        Raises:
            ShapeError: another number of cores, or a core of another shape.
            UsageError: a core is pruned or parametrized, so that its value can't be set.
        """
        want = [tuple(core.shape) for core in self.core]
        got = [tuple(core.shape) for core in cores]
        if want != got:
            raise ShapeError(
                f"{self.plan.name} takes {len(want)} cores of shapes {want}: got {got}; decompose it with this plan"
            )
        computed = [k for k, core in enumerate(self.core) if not isinstance(core, nn.Parameter)]
        if computed:
            raise UsageError(
                f"cores of {self.plan.name} can only be set where they are parameters: {computed} are pruned or "
                "parametrized; remove that first (torch.nn.utils.prune.remove, parametrize.remove_parametrizations)"
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
        sigma = (variance / prod(self.plan.structure.bonds)) ** (0.5 / len(self.core))
        with torch.no_grad():
            for core in self.core:
                core.normal_(0.0, sigma)
            scale = (variance / self.plan.mean_square(list(self.core))) ** (0.5 / len(self.core))
            for core in self.core:
                core.mul_(scale)

    @property
    def trains(self) -> bool:
        """True where a core takes part in training."""
        return any(core.requires_grad for core in self.core)

    def form(self, use: Use, strategy: str) -> Form:
        """Return how the weight is evaluated in this use; see `trcompress.layers.evaluation`."""
        return self._evaluator.form(use, strategy)

    @property
    def last_form(self) -> Form | None:
        """The form of the latest evaluation, or None before the first."""
        return self._evaluator.last

    @property
    def kept_bytes(self) -> int:
        """Bytes kept beside the cores by calls without gradients, to be fast; none with the strategy "ring"."""
        return self._evaluator.kept_bytes

    def width(self, form: Form) -> int:
        """Values a step that `project` produces."""
        return self._evaluator.width(form)

    def project(self, x: Tensor, form: Form, keep: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return (z, V) with x @ W.T == z @ V.T, V None for the identity; for a form other than dense."""
        return self._evaluator.project(x, self.cores(), form, keep)

    def weight(self, keep: bool = True) -> Tensor:
        """Return the dense weight, not to be written into: without gradients it may be a kept one."""
        return self._evaluator.dense(self.cores(), keep)

    def forget(self) -> None:
        """Drop everything computed from the cores; the next use computes it again."""
        self._evaluator.clear()

    def train(self, mode: bool = True) -> CoreWeight:
        """Set the mode; what the other mode kept is dropped."""
        if mode != self.training:
            self.forget()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> CoreWeight:
        self.forget()
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed again: copies and pickles hold the cores alone."""
        return {name: value for name, value in self.__dict__.items() if name != "_evaluator"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._evaluator = Evaluator(self.plan)

    def __repr__(self) -> str:
        """Show one line: the cores' sizes are those of the structure."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Return what `print(layer)` shows."""
        plan = self.plan
        gates = f"{plan.copies} rings, one per gate, " if plan.per_gate else ""
        return f"{plan.structure}, {gates}{plan.parameters:,} values for {plan.matrix.parameters:,}"


def _check_room(plan: WeightPlan, device: Any, dtype: torch.dtype) -> None:
    """Refuse cores that the machine cannot hold, before the allocator fails with a number of bytes alone."""
    wanted = plan.parameters * dtype.itemsize
    if wanted < ASKED_FROM or torch.device(device or torch.get_default_device()).type != "cpu":
        return
    free = available_bytes()
    if free is not None and wanted > free:
        ranks = ",".join(map(str, plan.structure.ranks))
        raise ShapeError(
            f"{plan.name}: the ranks must leave the cores room in memory: {ranks} take {size(wanted)}, "
            f"{size(free)} are free; choose lower ones"
        )
