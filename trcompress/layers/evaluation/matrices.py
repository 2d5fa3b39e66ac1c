"""The few matrices that one form of a ring weight needs, computed from the cores and differentiated by hand.

    ring      x (N*p, s) @ S -> (N, p * C) @ Q -> z (N, K),  V (G*H, K) the kernel's input weight
    merged    x (N, I) @ S -> z (N, K),                      V
    dense     W (G*H, I) = V @ S'

`Matrices` keeps buffers between training steps; `plain_matrices` says the same in ordinary differentiable
operations, for tracing, for transforms and for second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.nn import functional as F

from trcompress.formats import TensorRing
from trcompress.formats.chain import merge
from trcompress.layers.evaluation.expand import cores_to_dense, ring_factors
from trcompress.layers.evaluation.forest import Forest
from trcompress.layers.evaluation.form import Form, Sizes
from trcompress.model.plan import WeightPlan

EXACT = (torch.float32, torch.float64)
"""Types in which cores are merged as they are; narrower ones are merged in float32."""


class Matrices:
    """Buffers for one form of one weight, with the views that fill them.

    Args:
        plan: the weight; its structure is a ring.
        form: which matrices.
        cores: detached cores that share memory with the parameters.

    `stamp` says which values of the cores the buffers hold; whoever fills them keeps it.
    """

    def __init__(self, plan: WeightPlan, form: Form, cores: Sequence[Tensor]) -> None:
        self._plan, self._form, self._cores = plan, form, list(cores)
        self._direct = cores[0].dtype in EXACT and all(core.is_contiguous() for core in cores)
        leaves = self._cores if self._direct else [_wide(core) for core in cores]
        self._leaves, n = leaves, len(plan.structure.in_modes)
        chains = [leaves[: form.split], leaves[form.split : n], leaves[n:]]
        self._forest = Forest([chain for chain in chains if chain])
        self._layout = _Layout(plan, form, leaves[0])
        self._targets, self._sources = zip(*self._layout.pairs(self._forest.roots), strict=True)
        self.buffers = self._layout.matrices()
        self._targets_back: list[Tensor] | None = None
        self._lease: ref[_Lease] | None = None
        self.runs = 0
        self.stamp: Any = None
        self._shared = self._returned = False

    def fill(self) -> None:
        """Compute the matrices from the cores as they are now; `buffers` are overwritten by the next run."""
        self.runs += 1
        self._lease = None
        if not self._direct:
            torch._foreach_copy_(self._leaves, self._cores)
        self._forest.run()
        torch._foreach_copy_(self._targets, self._sources)
        self._layout.finish()

    def typed(self) -> tuple[Tensor, ...]:
        """Return the matrices in the type of the cores."""
        dtype = self._cores[0].dtype
        return tuple(out.detach() if out.dtype == dtype else out.to(dtype) for out in self.buffers)

    def plain(self, cores: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the matrices of these cores, in differentiable operations."""
        return plain_matrices(self._plan, self._form, cores)

    def lend(self) -> object:
        """Return a token for one graph: while the graph keeps it, its buffers are `lent`."""
        lease = None if self._lease is None or self._returned else self._lease()
        self._shared, self._returned = lease is not None, False
        if lease is None:
            lease = _Lease()
            self._lease = ref(lease)
        return lease

    def share(self) -> None:
        """Say that another forward pass uses the same graph: which backward pass is the last cannot be known."""
        self._shared, self._returned = True, False

    def give_back(self) -> None:
        """Say that a backward pass has run for good; with one forward pass alone the buffers are free again."""
        self._returned = not self._shared

    @property
    def lent(self) -> bool:
        """Whether a graph that may still run backward needs the buffers."""
        return not self._returned and self._lease is not None and self._lease() is not None

    def backward(self, grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Carry gradients of the matrices to the cores."""
        if self._targets_back is None:
            self._targets_back = self._layout.root_views(self._forest.root_gradients())
        dtype, wide = self._cores[0].dtype, self._leaves[0].dtype
        self._layout.backward(grads if dtype == wide else [grad.to(wide) for grad in grads], self._targets_back)
        found = self._forest.backward()
        return tuple(_copies(found) if dtype == wide else [grad.to(dtype) for grad in found])


class _Lease:
    """Kept by a node of a graph, known weakly to the buffers the node needs."""


class _Layout:
    """Where the values of the merged cores go in S, Q and V, or in the factors of W."""

    def __init__(self, plan: WeightPlan, form: Form, like: Tensor) -> None:
        self._plan, self._form, self._sizes = plan, form, Sizes.of(plan, form.split)
        matrix, sizes = plan.matrix, self._sizes
        self._dense = form.kind == "dense"
        if self._dense:
            self._S = like.new_zeros(plan.copies, sizes.suffix, sizes.r0 * sizes.rn)
            self._V = like.new_zeros(plan.copies, matrix.rows // plan.copies, sizes.r0 * sizes.rn)
            self._W = like.new_empty(matrix.rows, matrix.columns)
        else:
            self._S = like.new_zeros(sizes.suffix, sizes.columns)
            self._V = like.new_zeros(matrix.rows, form.columns or sizes.width)
        self._Q = like.new_zeros(sizes.prefix * sizes.columns, sizes.width) if form.split else None

    def pairs(self, roots: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return (view of a matrix, view of a merged core) for each copy to make."""
        suffix, output, *prefix = self.root_views(roots)
        pairs = [(self._s_view(self._S), suffix), (self._v_view(self._V), output)]
        if self._Q is not None:
            pairs.append((self._q_view(self._Q), prefix[0].unsqueeze(-1).expand(*[-1] * 4, self._sizes.rn)))
        return pairs

    def root_views(self, roots: Sequence[Tensor]) -> list[Tensor]:
        """See the merged cores (or their gradients) as S, V and Q have their values, padding cropped.

        Returns:
            (copies, rs, suffix, rn), (G, H, r0, rn) and, where there is a cut, (copies, r0, prefix, rs).
        """
        *prefix, suffix, output = (root.view(-1, *root.shape[-3:]) for root in roots)
        matrix, (rn, _, r0) = self._plan.matrix, output.shape[-3:]
        if self._plan.per_gate:
            grid = output.permute(0, 2, 3, 1)
        else:
            grid = output.view(rn, matrix.gates, self._plan.padded_hidden, r0).permute(1, 2, 3, 0)
        return [suffix[:, :, : self._sizes.suffix], grid[:, : matrix.gate_rows], *prefix]

    def finish(self) -> None:
        """Complete the matrices of the form, once the copies are made."""
        if self._dense:
            _product(self._V, self._S.mT, self._W.view(self._plan.copies, -1, self._W.shape[1]))

    def matrices(self) -> list[Tensor]:
        """The matrices of the form."""
        if self._dense:
            return [self._W]
        return [self._S, self._V] if self._Q is None else [self._S, self._V, self._Q]

    def backward(self, grads: Sequence[Tensor], roots: Sequence[Tensor]) -> None:
        """Put the gradients of the matrices into the `root_views` of the merged cores' gradients."""
        if self._dense:
            W = grads[0].contiguous().view(self._plan.copies, -1, grads[0].shape[1])
            if self._plan.copies == 1:  # a plain product is issued faster than a batch of one
                grads = (W[0].T @ self._V[0], W[0] @ self._S[0])
            else:
                grads = (W.mT @ self._V, W @ self._S)
        S, V, *Q = (grad.contiguous() for grad in grads)
        torch._foreach_copy_(list(roots[:2]), [self._s_view(S), self._v_view(V)])
        if Q:
            torch.sum(self._q_view(Q[0]), -1, out=roots[2])

    def _s_view(self, S: Tensor) -> Tensor:
        """(copies, rs, suffix, rn) of S (suffix, columns), or of the dense form's (copies, I, r0 * rn)."""
        s, columns = self._sizes, S.shape[-1]
        copy = s.suffix * columns if self._dense else s.rs * s.rn
        return S.as_strided((s.copies, s.rs, s.suffix, s.rn), (copy, s.rn, columns, 1))

    def _v_view(self, V: Tensor) -> Tensor:
        """(G, H, r0, rn) of V; with a ring per gate, of its blocks."""
        matrix, (r0, rn) = self._plan.matrix, (self._sizes.r0, self._sizes.rn)
        width = V.shape[-1]
        block = r0 * rn if self._plan.per_gate and not self._dense else 0
        strides = (matrix.gate_rows * width + block, width, rn, 1)
        return V.as_strided((matrix.gates, matrix.gate_rows, r0, rn), strides, self._form.offset)

    def _q_view(self, Q: Tensor) -> Tensor:
        """(copies, r0, prefix, rs, rn): the values of Q that are not zero by structure."""
        s, width = self._sizes, Q.shape[1]
        strides = (s.rs * s.rn * width + s.r0 * s.rn, s.rn, s.columns * width, s.rn * width, width + 1)
        return Q.as_strided((s.copies, s.r0, s.prefix, s.rs, s.rn), strides)


def plain_matrices(plan: WeightPlan, form: Form, cores: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what `Matrices` computes, in operations that autograd, tracers and transforms understand.

    Paired formats have the dense form alone: (W,).
    """
    dtype = cores[0].dtype
    exact = list(cores) if dtype in EXACT else [core.float() for core in cores]
    if not isinstance(plan.structure, TensorRing):
        return (cores_to_dense(plan, exact).to(dtype),)
    A, B = ring_factors(plan, exact)  # (I, K), (K, G*H)
    if form.kind == "dense":
        return ((B.T @ A.T).to(dtype),)
    sizes = Sizes.of(plan, form.split)
    spare = (form.columns or sizes.width) - form.offset - B.shape[0]
    V = F.pad(B.T, (form.offset, spare))
    matrices = [F.pad(A, (0, sizes.width - A.shape[1])), V]
    if form.split:
        matrices = [_plain_s(plan, sizes, form.split, exact), V, _plain_q(sizes, exact[: form.split])]
    return tuple(matrix.to(dtype) for matrix in matrices)


def _plain_s(plan: WeightPlan, sizes: Sizes, split: int, cores: Sequence[Tensor]) -> Tensor:
    suffix = merge(cores[split : len(plan.structure.in_modes)])  # (copies?, rs, suffix, rn)
    S = suffix.reshape(-1, *suffix.shape[-3:]).permute(2, 0, 1, 3).flatten(1)  # (suffix, copies * rs * rn)
    return F.pad(S, (0, sizes.columns - S.shape[1]))


def _plain_q(sizes: Sizes, cores: Sequence[Tensor]) -> Tensor:
    """Q[(p, c, rs, rn), (c, r0, rn)] = P[c, r0, p, rs], zero where c or rn differ."""
    prefix = merge(cores)
    prefix = prefix.view(-1, *prefix.shape[-3:])
    gates = torch.eye(sizes.copies, dtype=prefix.dtype, device=prefix.device)
    bond = torch.eye(sizes.rn, dtype=prefix.dtype, device=prefix.device)
    grid = torch.einsum("crps,cd,nm->pcsndrm", prefix, gates, bond)
    Q = grid.flatten(4).flatten(1, 3)  # (p, copies*rs*rn, copies*r0*rn)
    padded = F.pad(Q, (0, sizes.width - Q.shape[2], 0, sizes.columns - Q.shape[1]))
    return padded.flatten(0, 1)


def _wide(core: Tensor) -> Tensor:
    dtype = core.dtype if core.dtype in EXACT else torch.float32
    return torch.empty(core.shape, dtype=dtype, device=core.device)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy many small tensors in one call where PyTorch has one."""
    clone = getattr(torch, "_foreach_clone", None)
    return [tensor.clone() for tensor in tensors] if clone is None else clone(tensors)


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    if out.shape[0] == 1:
        torch.mm(left[0], right[0], out=out[0])
    else:
        torch.bmm(left, right, out=out)
