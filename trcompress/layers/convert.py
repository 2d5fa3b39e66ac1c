"""Between torch.nn's recurrent modules and ring layers: matrices of either, dense to ring, ring to dense."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from trcompress.errors import UsageError
from trcompress.layers.baselines import BTLSTM, TTLSTM
from trcompress.layers.cells import RingCell, TRGRUCell, TRLSTMCell, TRRNNCell
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.padded_lstm import PaddedForward
from trcompress.layers.recurrent import TRGRU, TRLSTM, TRRNN
from trcompress.layers.resolve import layers_of
from trcompress.layers.stack import RingStack
from trcompress.model.kinds import KINDS
from trcompress.model.layer import input_matrices
from trcompress.model.matrix import Matrix
from trcompress.model.weight_plan import WeightPlan

RING_OF: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, ring.__name__.removeprefix("TR")): ring
    for ring in (TRLSTM, TRGRU, TRRNN, TRLSTMCell, TRGRUCell, TRRNNCell)
}
"""Which ring module stands for which torch.nn module."""

RECURRENT = (*RING_OF, RingStack, RingCell)
"""Every module type that `module_matrices` knows."""
COMPUTING = ("forward", "__call__", "permute_hidden")
"""Methods that decide what a recurrent module of torch.nn computes."""


def dense_class(kind: str, *, cell: bool = False) -> Any:
    """Return the class of torch.nn for a key of `trcompress.model.kinds.KINDS`, as nn.GRU for "gru"."""
    return getattr(nn, KINDS[kind].cell if cell else KINDS[kind].module)


def dense_kind(module: nn.Module) -> type[nn.Module] | None:
    """Return the class of torch.nn that a module is of, or is made from; None for all others, ring layers too."""
    return next((kind for kind in RING_OF if isinstance(module, kind)), None)


def is_plain_stack(module: nn.Module) -> bool:
    """Return True for torch.nn.LSTM, GRU and RNN themselves: no cell, no class made from one, no ring layer."""
    return type(module) in RING_OF and isinstance(module, nn.RNNBase)


def own_methods(module: nn.Module) -> list[str]:
    """Name what a class made from one of torch.nn's computes in its own way; empty where it keeps all of it.

    `PaddedForward` computes what torch.nn does.
    """
    kind = dense_kind(module)
    if kind is None:
        return []
    return [
        name
        for name in COMPUTING
        if not isinstance(module.__dict__.get(name), PaddedForward | None)
        or getattr(type(module), name, None) is not getattr(kind, name, None)
    ]


def is_recurrent(module: nn.Module) -> bool:
    """Return True where a module computes what one of torch.nn's recurrent modules does, or is a ring layer.

    A class made from one of torch.nn's counts as long as it keeps torch.nn's forward.
    """
    return isinstance(module, RECURRENT) and not own_methods(module)


def module_matrices(module: nn.Module, name: str = "") -> list[Matrix]:
    """List the weights of a recurrent module that a plan can name.

    Args:
        module: torch.nn.LSTM, GRU, RNN, one of their cells, or a ring layer.
        name: the module's name in its model, `rnn`; empty at the root.

    Raises:
        UsageError: a module of another kind.

    Example:
        >>> [matrix.key for matrix in module_matrices(nn.GRU(20, 8, bidirectional=True), "rnn")]
        ['rnn.weight_ih_l0', 'rnn.weight_ih_l0_reverse']
    """
    if not is_recurrent(module):
        raise UsageError(
            f"only {', '.join(kind.__name__ for kind in RING_OF)} and their TR forms have weights to compress: "
            f"got {_told(module)}"
        )
    return input_matrices(layers_of(module, name))


def from_dense(module: nn.Module, weights: Mapping[str, WeightPlan]) -> nn.Module:
    """Build the ring layer that stands for a dense one.

    Args:
        module: torch.nn.LSTM, GRU, RNN or one of their cells; or a ring layer with weights that are dense still.
        weights: the plan of each weight to replace, by local name (`weight_ih_l0`).

    Returns:
        A TR layer with copies of all other parameters, bit for bit. Its cores hold no values yet: give them with
        `layer.weight_ih_l0.set_cores(cores)`.

    Raises:
        UsageError: a module of another kind, or a name it does not have.
        ShapeError: a plan of other sizes than the weight it names.
    """
    if not is_recurrent(module):
        raise UsageError(
            f"from_dense takes {', '.join(kind.__name__ for kind in RING_OF)}, or a TR layer: got {_told(module)}"
        )
    dense = dense_kind(module)
    own = TRLSTM if isinstance(module, TTLSTM | BTLSTM) else type(module)  # those two make their plan themselves
    kind = own if dense is None else RING_OF[dense]
    kept = {name: child.plan for name, child in module._modules.items() if isinstance(child, CoreWeight)}
    first = _first(module)
    ring = kind(**_arguments(module), weights={**kept, **weights}, device="meta", dtype=first.dtype)
    ring = ring.to_empty(device=first.device)
    _copy_parameters(module, ring)
    for name, weight in module._modules.items():
        if name in kept and isinstance(weight, CoreWeight):
            ring.get_submodule(name).set_cores(weight.cores())  # type: ignore[operator]
    for name in weights:
        ring.get_submodule(name).requires_grad_(getattr(module, name).requires_grad)
    return ring.train(module.training)


def to_dense_module(layer: nn.Module) -> nn.Module:
    """Expand a ring layer into the torch.nn module that computes the same.

    Raises:
        UsageError: not a ring layer.
    """
    if not isinstance(layer, tuple(RING_OF.values())):
        raise UsageError(f"to_dense_module takes a TR layer: got {type(layer).__name__}")
    return expand_weights(layer, [name for name, one in layer._modules.items() if isinstance(one, CoreWeight)])


def expand_weights(layer: nn.Module, names: Collection[str]) -> nn.Module:
    """Copy a ring layer with some of its weights as ordinary parameters, the others as the cores they are.

    Args:
        layer: a ring layer.
        names: local names of weights that are cores, `weight_hh_l0`.

    Returns:
        A ring layer; the torch.nn module that computes the same where no cores are left.
    """
    cores = {name: one for name, one in layer._modules.items() if isinstance(one, CoreWeight)}
    kept = {name: one.plan for name, one in cores.items() if name not in names}
    dense = next(dense for dense, ring in RING_OF.items() if isinstance(layer, ring))
    first = _first(layer)
    given = {"weights": kept} if kept else {}
    new: Any = (RING_OF[dense] if kept else dense)(**_arguments(layer), **given, device="meta", dtype=first.dtype)
    new = new.to_empty(device=first.device)
    _copy_parameters(layer, new)
    with torch.no_grad():
        for name, weight in cores.items():
            if name in kept:
                new.get_submodule(name).set_cores(weight.cores())
            else:
                new.get_parameter(name).copy_(weight.to_dense())
            for one in new.get_submodule(name).parameters() if name in kept else [new.get_parameter(name)]:
                one.requires_grad_(weight.core[0].requires_grad)
    return new.train(layer.training)


def _first(module: Any) -> torch.Tensor:
    """A tensor of the module's type and place; there may be no parameter where integers are kept."""
    found = next(module.parameters(), None)
    return torch.empty(0, dtype=module.dtype, device=next(module.buffers()).device) if found is None else found


def _told(module: nn.Module) -> str:
    own = own_methods(module)
    return type(module).__name__ + (f", which has {', '.join(own)} of its own" if own else "")


def _arguments(module: nn.Module) -> dict[str, Any]:
    names = ["input_size", "hidden_size", "bias"]
    if hasattr(module, "num_layers"):
        names += ["num_layers", "batch_first", "dropout", "bidirectional"]
        names += ["proj_size"] if module.proj_size else []
    names += ["nonlinearity"] if hasattr(module, "nonlinearity") else []
    return {name: getattr(module, name) for name in names}


def _copy_parameters(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in target.named_parameters(recurse=False):
            theirs = getattr(source, name)
            if not isinstance(theirs, torch.Tensor | CoreWeight):
                theirs = theirs.to_dense()  # kept as integers
            if isinstance(theirs, torch.Tensor):
                parameter.copy_(theirs)
                parameter.requires_grad_(theirs.requires_grad)
