"""From what a layer's caller gives (shape and ranks, a plan, or resolved plans) to one WeightPlan per weight."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from torch import nn

from trcompress.errors import ShapeError, UsageError, nearest
from trcompress.model.grammar import Ranks, Shape
from trcompress.model.kinds import KINDS, MODES, Kind
from trcompress.model.layer import ROLES, Layer, input_matrices
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan, Rule
from trcompress.model.weight_plan import WeightPlan


class RingOptions(TypedDict, total=False):
    """What a ring layer takes beside torch.nn's arguments: shape and ranks, or a plan, or resolved weights."""

    shape: Shape
    ranks: Ranks
    gates: str
    plan: Plan
    weights: Mapping[str, WeightPlan]


def refuse_unknown_options(layer: type[nn.Module], given: Mapping[str, Any]) -> None:
    """Name the options that a layer does not have.

    Raises:
        UsageError: all of them, with the nearest that it has.
    """
    own = [name for name in inspect.signature(layer).parameters if name not in ("ring", "args", "kwargs")]
    known = [*RingOptions.__annotations__, *own]
    unknown = [f"{name!r}{nearest(name, known)}" for name in given if name not in RingOptions.__annotations__]
    if unknown:
        raise UsageError(
            f"{layer.__name__} got an unknown option {unknown[0]}"
            if len(unknown) == 1
            else f"{layer.__name__} got unknown options {', '.join(unknown)}"
        )


def resolve(
    layers: Sequence[Layer],
    shape: Shape | None = None,
    ranks: Ranks | None = None,
    gates: str = "fused",
    plan: Plan | None = None,
    weights: Mapping[str, WeightPlan] | None = None,
) -> dict[str, WeightPlan]:
    """Give each compressed weight of a module its plan, by local name.

    `shape` and `ranks`, or `plan`, are for input weights; `weights` may name others.

    Raises:
        UsageError: not exactly one of (shape and ranks), plan and weights; or a name the layer does not have.
        ShapeError: the plan is of other sizes than the weight.
    """
    given = [shape is not None or ranks is not None, plan is not None, weights is not None]
    if sum(given) != 1 or (shape is None) != (ranks is None):
        raise UsageError(
            "a ring layer takes either shape and ranks, or plan, or weights: got "
            f"shape={shape!r}, ranks={ranks!r}, plan={plan!r}, weights={weights!r}"
        )
    if weights is None:
        chosen = plan or Plan((Rule.parse(shape, ranks, gates=gates),))  # type: ignore[arg-type]
        return {weight.name: weight for weight in chosen.resolve(input_matrices(layers), as_given=True)}
    known = {matrix.key: matrix for layer in layers for matrix in layer.matrices}
    for name, weight in weights.items():
        _check(name, weight, known)
    return dict(weights)


def _check(name: str, weight: WeightPlan, known: Mapping[str, Matrix]) -> None:
    if name not in known:
        raise UsageError(f"weights must name weights of the layer ({', '.join(known)}): got {name!r}")
    mine, theirs = known[name], weight.matrix
    sizes = [(matrix.columns, matrix.gates, matrix.gate_rows) for matrix in (mine, theirs)]
    if sizes[0] != sizes[1]:
        raise ShapeError(
            f"the plan of {name} must be of its sizes (inputs, gates, hidden) {sizes[0]}: got {sizes[1]}; "
            "resolve the plan against this layer's matrices"
        )


def layers_of(module: nn.Module, name: str = "") -> list[Layer]:
    """Describe every layer and direction of one module that has torch.nn's recurrent attributes.

    Args:
        module: torch.nn.LSTM, GRU, RNN, one of their cells, or a ring layer.
        name: the module's name in its model, `rnn`; empty at the root.

    Example:
        >>> [layer.keys["weight_ih"] for layer in layers_of(nn.GRU(20, 8, bidirectional=True), "rnn")]
        ['rnn.weight_ih_l0', 'rnn.weight_ih_l0_reverse']
    """
    found: Any = module
    cell = not isinstance(getattr(found, "num_layers", None), int)
    directions = 2 if not cell and found.bidirectional else 1
    proj_size = 0 if cell else int(found.proj_size)
    fed = directions * (proj_size or int(found.hidden_size))
    return [
        _with_keys(
            Layer(
                stack=name,
                kind=recurrent_kind(module).name,
                index=index,
                reverse=reverse,
                input_size=int(found.input_size) if index == 0 else fed,
                hidden_size=int(found.hidden_size),
                proj_size=proj_size,
                cell=cell,
                nonlinearity=getattr(found, "nonlinearity", "tanh"),
                batch_first=getattr(found, "batch_first", False),
                dropout=getattr(found, "dropout", 0.0),
            ),
            module,
        )
        for index in range(1 if cell else found.num_layers)
        for reverse in (False, True)[:directions]
    ]


def _with_keys(layer: Layer, module: nn.Module) -> Layer:
    prefix = f"{layer.stack}." if layer.stack else ""
    local = {role: layer.local_name(role) for role in ROLES}
    keys = {role: prefix + leaf for role, leaf in local.items() if getattr(module, leaf, None) is not None}
    return replace(layer, keys=keys)


def recurrent_kind(module: nn.Module) -> Kind:
    """Return the kind of a recurrent module: torch.nn.LSTM, GRU, RNN, one of their cells, or a ring layer.

    Example:
        >>> recurrent_kind(nn.GRUCell(20, 8)).name, recurrent_kind(nn.RNN(20, 8, nonlinearity="relu")).name
        ('gru', 'rnn')
    """
    cells = (kind for kind in KINDS.values() if isinstance(module, getattr(nn, kind.cell)))
    return next(cells, None) or MODES[str(module.mode)]
