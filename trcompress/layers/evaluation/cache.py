"""The matrices of one weight, computed once and kept until its cores change, move or are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from trcompress.formats import TensorRing
from trcompress.layers.evaluation.form import Form
from trcompress.layers.evaluation.matrices import Matrices, plain_matrices
from trcompress.layers.evaluation.nodes import BUILDING, Merge
from trcompress.layers.evaluation.watch import Stamp, watch
from trcompress.model.plan import WeightPlan

_NOTHING = nullcontext()


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
                with BUILDING, _normal_tensors(), _full_precision(cores[0].device.type):
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

    def filled(self, form: Form, cores: Sequence[Any]) -> Matrices | None:
        """Return buffers that hold the matrices of the cores as they are now, for a training pass like the last.

        Returns:
            None where that takes more than filling the buffers of the last pass: `get` sees to it.
        """
        stamp, matrices = self._stamp, self._buffers.get(form)
        if stamp is None or matrices is None:
            return None
        with BUILDING:
            if stamp.holds(cores) and matrices.stamp is stamp:
                return matrices
            renewed = stamp.renewed(cores) if watch(cores) and not matrices.lent else None
            if renewed is not None:
                self._kept, self._stamp, matrices.stamp = {}, renewed, renewed
                matrices.fill()
        return None if renewed is None else matrices

    @property
    def kept_bytes(self) -> int:
        """Bytes of the matrices that are remembered, and of the buffers that training fills again."""
        remembered = [tensor for found in self._kept.values() for tensor in found]
        filled = [tensor for matrices in self._buffers.values() for tensor in matrices.buffers]
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in [*remembered, *filled]}.values())

    def clear(self) -> None:
        """Forget everything; the next use computes it again."""
        self._stamp = None
        self._kept, self._buffers = {}, {}

    def _build(self, form: Form, cores: Sequence[Any], keep: bool, trained: bool) -> tuple[Tensor, ...]:
        aliases = self._restamp(cores) if keep else [core.detach() for core in cores]
        ring = isinstance(self._plan.structure, TensorRing)
        if not trained:
            with torch.no_grad():
                found = _merged(self._plan, form, aliases) if ring else plain_matrices(self._plan, form, cores)
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
        matrices.stamp = self._stamp if keep else None
        matrices.fill()
        return Merge.apply(matrices, *cores)

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


def _merged(plan: WeightPlan, form: Form, cores: Sequence[Tensor]) -> tuple[Tensor, ...]:
    matrices = Matrices(plan, form, cores)
    matrices.fill()
    return matrices.typed()


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
