"""Cores to matrices, and inputs through them, as nodes of the graph.

A node keeps nothing of the cores that a backward pass frees, and its buffers stay with the layer: one merge serves
every forward pass until the cores change, all steps of a cell's loop as well as the parts of an accumulated batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from trcompress.layers.evaluation.matrices import Matrices
from trcompress.layers.evaluation.project import project

BUILDING = RLock()
"""Held while buffers are filled or led back: layers may run in several threads."""


class _Loan:
    """The buffers a node depends on, and the cores they were filled from."""

    def __init__(self, matrices: Matrices, cores: Sequence[Tensor]) -> None:
        self.matrices, self.cores = matrices, cores
        self._versions = [core._version for core in cores]
        self._run, self._lease = matrices.runs, matrices.lend()

    def check(self) -> None:
        """Refuse to go back where the cores or the buffers have changed."""
        if [core._version for core in self.cores] != self._versions or self.matrices.runs != self._run:
            raise RuntimeError(
                "the cores of a ring layer were modified in place between its forward pass and this backward pass; "
                "run the forward pass again"
            )

    def back(self, grads: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
        """Carry gradients of the matrices to the cores."""
        with BUILDING:
            found = self.matrices.backward(grads)
        if not _keeps_graph():
            self.matrices.give_back()
        return [grad if want else None for grad, want in zip(found, wanted, strict=True)]


class Merge(torch.autograd.Function):
    """Cores to the matrices of a form, through buffers that are filled."""

    @staticmethod
    def forward(ctx: Any, matrices: Matrices, *cores: Tensor) -> Any:
        """Return the matrices."""
        ctx.loan = _Loan(matrices, cores)
        return matrices.typed()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Carry the gradients of the matrices to the cores."""
        ctx.loan.check()
        if torch.is_grad_enabled():
            return None, *_second_order(ctx.loan.matrices.plain, ctx.loan.cores, grads)
        return None, *ctx.loan.back(grads, ctx.needs_input_grad[1:])


class Enter(torch.autograd.Function):
    """Inputs and cores to (z, V), z = x S or (x S) Q, through buffers that are filled: two nodes' work in one."""

    @staticmethod
    def forward(ctx: Any, matrices: Matrices, x: Tensor, *cores: Tensor) -> Any:
        """Return (z, V) of a contiguous x (..., I)."""
        S, V, *Q = matrices.buffers
        ctx.loan = _Loan(matrices, cores)
        y = z = torch.mm(x.view(-1, S.shape[0]), S)
        if Q:
            z = torch.mm(y.view(-1, Q[0].shape[0]), Q[0])
        ctx.save_for_backward(x, y if Q else None)
        return z.view(*x.shape[:-1], z.shape[1]), V.detach()

    @staticmethod
    def backward(ctx: Any, dz: Tensor, dV: Tensor) -> Any:
        """Carry the gradients to the cores, and to x where it wants one."""
        ctx.loan.check()
        x, y = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_second_order(partial(_enter, ctx.loan.matrices), (x, *ctx.loan.cores), (dz, dV))
        S, _, *Q = ctx.loan.matrices.buffers
        dy, dQ = dz.reshape(-1, dz.shape[-1]), []
        if Q:
            dQ = [torch.mm(y.view(-1, Q[0].shape[0]).t(), dy)]
            dy = torch.mm(dy, Q[0].t()).view(-1, S.shape[1])
        dS = torch.mm(x.view(-1, S.shape[0]).t(), dy)
        cores = ctx.loan.back([dS, dV, *dQ], ctx.needs_input_grad[2:])
        return None, torch.mm(dy, S.t()).view(x.shape) if ctx.needs_input_grad[1] else None, *cores


def _enter(matrices: Matrices, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What `Enter` does, in differentiable operations."""
    x, *cores = inputs
    S, V, *Q = matrices.plain(cores)
    return project(x, S, *Q), V


def _second_order(
    plain: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """The same gradients, differentiable once more in the inputs and in `grads`."""
    wanted = [one for one in inputs if one.requires_grad]
    found = iter(torch.autograd.grad(plain(inputs), wanted, grads, create_graph=True))
    return [next(found) if one.requires_grad else None for one in inputs]


def _keeps_graph() -> bool:
    """Whether the backward pass under way may be run again (`retain_graph=True`)."""
    asks = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return asks is None or bool(asks())
