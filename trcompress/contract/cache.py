"""The matrices of one weight, computed once and kept until its cores change, move or are replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from trcompress.contract.form import Form
from trcompress.contract.matrices import Matrices, plain_matrices
from trcompress.contract.watch import Stamp, watch
from trcompress.formats import TensorRing
from trcompress.plan import WeightPlan

_BUILDING = RLock()
_NOTHING = nullcontext()


class _Merge(torch.autograd.Function):
    """Cores to matrices as one node of the graph.

    The node keeps nothing that a backward pass frees, so one merge serves every forward pass until the cores
    change: all steps of a cell's loop, all micro-batches of an accumulated gradient.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Matrices, plain: Callable[..., tuple[Tensor, ...]], *cores: Tensor) -> Any:
        ctx.matrices, ctx.plain, ctx.cores = matrices, plain, cores
        ctx.versions = [core._version for core in cores]
        found = matrices.run()
        ctx.run, ctx.lease = matrices.runs, matrices.lend()
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if [core._version for core in ctx.cores] != ctx.versions or ctx.matrices.runs != ctx.run:
            raise RuntimeError(
                "the cores of a ring layer were modified in place between its forward pass and this backward pass; "
                "run the forward pass again"
            )
        if torch.is_grad_enabled():
            return None, None, *_second_order(ctx.plain, ctx.cores, grads)
        wanted = ctx.needs_input_grad[2:]
        with _BUILDING:
            found = ctx.matrices.backward(grads)
        if not _keeps_graph():
            ctx.matrices.give_back()
        return None, None, *(grad if want else None for grad, want in zip(found, wanted, strict=True))


def _second_order(
    plain: Callable[..., tuple[Tensor, ...]], cores: Sequence[Tensor], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """The same gradients, differentiable once more in the cores and in `grads`."""
    wanted = [core for core in cores if core.requires_grad]
    found = iter(torch.autograd.grad(plain(cores), wanted, grads, create_graph=True))
    return [next(found) if core.requires_grad else None for core in cores]


class MatrixCache:
    """The matrices computed from one weight's cores, by form.

    Args:
        plan: the weight.
    """

    def __init__(self, plan: WeightPlan) -> None:
        self._plan = plan
        self._stamp: Stamp | None = None
        self._kept: dict[Form, tuple[Tensor, ...]] = {}
        self._buffers: dict[Form, Matrices] = {}

    def get(self, form: Form, cores: Sequence[Any], keep: bool = True) -> tuple[Tensor, ...]:
        """Return the matrices of a form: (S, V), (S, V, Q) or (W,).

        Args:
            form: which matrices.
            cores: the parameters, as they are now.
            keep: remember them, and the buffers they were computed in, until the cores change.
        """
        if not in_disguise():
            trained = torch.is_grad_enabled() and any(core.requires_grad for core in cores)
            found = self._remembered(form, cores, trained)
            if found is not None:
                return found
            if not cores[0].is_meta:
                with _BUILDING, _normal_tensors(), _full_precision(cores[0].device.type):
                    return self._build(form, cores, keep and watch(cores), trained)
        with _full_precision(cores[0].device.type):
            return plain_matrices(self._plan, form, cores)

    def _remembered(self, form: Form, cores: Sequence[Any], trained: bool) -> tuple[Tensor, ...] | None:
        found = self._kept.get(form)
        if found is None or not self._stamp.holds(cores):  # type: ignore[union-attr]
            return None
        if trained:
            if not found[0].requires_grad:
                return None
            self._buffers[form].share()
        return found

    def kept(self, form: Form, cores: Sequence[Any]) -> tuple[Stamp, tuple[Tensor, ...], Matrices | None] | None:
        """Return what is remembered of a form, if it is of these cores as they are now.

        Returns:
            The stamp that tells how long it stays right; the matrices; and the buffers of their graph, if any.
        """
        found = self._kept.get(form)
        if found is None or self._stamp is None or not self._stamp.holds(cores):
            return None
        return self._stamp, found, self._buffers.get(form) if found[0].requires_grad else None

    @property
    def kept_bytes(self) -> int:
        """Bytes of the matrices that are remembered."""
        return sum(tensor.nbytes for found in self._kept.values() for tensor in found)

    def clear(self) -> None:
        """Forget everything; the next use computes it again."""
        self._stamp = None
        self._kept, self._buffers = {}, {}

    def _build(self, form: Form, cores: Sequence[Any], keep: bool, trained: bool) -> tuple[Tensor, ...]:
        aliases = self._restamp(cores) if keep else [core.detach() for core in cores]
        ring = isinstance(self._plan.structure, TensorRing)
        if not trained:
            with torch.no_grad():
                found = (
                    Matrices(self._plan, form, aliases).run() if ring else plain_matrices(self._plan, form, cores)
                )
        elif not ring:
            return plain_matrices(self._plan, form, cores)
        else:
            found = self._differentiable(form, cores, aliases, keep)
        if keep:
            self._kept[form] = found
        return found

    def _differentiable(
        self, form: Form, cores: Sequence[Any], aliases: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, ...]:
        matrices = self._buffers.get(form) if keep else None
        if matrices is None or matrices.lent:
            matrices = Matrices(self._plan, form, aliases)
        if keep:
            self._buffers[form] = matrices
        return _Merge.apply(matrices, partial(plain_matrices, self._plan, form), *cores)

    def _restamp(self, cores: Sequence[Any]) -> list[Tensor]:
        """Forget what was computed from other values; buffers survive where the cores are where they were."""
        stamp = self._stamp
        if stamp is None or not stamp.holds(cores):
            self._kept = {}
            stamp = stamp and stamp.renewed(cores)
            if stamp is None:
                stamp, self._buffers = Stamp(cores), {}
            self._stamp = stamp
        return stamp.aliases


def _keeps_graph() -> bool:
    """Whether the backward pass under way may be run again (`retain_graph=True`)."""
    asks = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return asks is None or bool(asks())


def in_disguise() -> bool:
    """Whether tensors are now stand-ins, for a compiler, a tracer or a function transform."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def _normal_tensors() -> AbstractContextManager[Any]:
    """What is kept must serve training later, also where it is computed in inference mode."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else _NOTHING


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Merge in the cores' own type also under autocast: errors of a dozen products would add up."""
    if not torch._C._is_any_autocast_enabled():
        return _NOTHING
    return torch.autocast(device, enabled=False)
