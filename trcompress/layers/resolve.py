"""From what a layer's caller gives (shape and ranks, a plan, or resolved plans) to one WeightPlan per weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from trcompress.errors import ShapeError, UsageError, nearest
from trcompress.formats import FORMATS
from trcompress.model.plan import GATE_MODES, Plan, Rule, WeightPlan
from trcompress.model.slots import GATES, WeightSlot

Shape = str | tuple[Sequence[int], Sequence[int]]
Ranks = str | int | Sequence[int]


def rule_of(shape: Shape, ranks: Ranks, gates: str = "fused", format: str = "tensor-ring", blocks: int = 2) -> Rule:
    """Read one rule from text or from numbers.

    Args:
        shape: "4x2x5:4x4", or ((4, 2, 5), (4, 4)).
        ranks: "5,10", 5, or (5, 10); see `trcompress.model.plan.Rule`.
        gates: "fused" or "per-gate".
        format: a key of `trcompress.formats.FORMATS`.
        blocks: number of Tucker terms of the block-term format.

    Raises:
        UsageError: an unknown value of `gates` or `format`.
        ShapeError: modes or ranks that do not read as such.
    """
    if gates not in GATE_MODES:
        raise UsageError(f"gates must be one of {', '.join(GATE_MODES)}: got {gates!r}")
    if format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}: got {format!r}{nearest(format, [*FORMATS])}")
    spelled = shape if isinstance(shape, str) else ":".join("x".join(map(str, side)) for side in shape)
    numbers = str(ranks) if isinstance(ranks, int) else ranks
    numbers = numbers if isinstance(numbers, str) else ",".join(map(str, numbers)) or "full"
    return replace(Rule.parse(spelled, numbers, gates=gates), format=format, blocks=blocks)


def resolve(
    slots: Sequence[WeightSlot],
    shape: Shape | None = None,
    ranks: Ranks | None = None,
    gates: str = "fused",
    plan: Plan | None = None,
    weights: Mapping[str, WeightPlan] | None = None,
) -> dict[str, WeightPlan]:
    """Give each compressed weight of a layer its plan, by local name.

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
        chosen = plan or Plan((rule_of(shape, ranks, gates),))  # type: ignore[arg-type]
        return {weight.name: weight for weight in chosen.resolve(slots)}
    known = {slot.name: slot for slot in slots}
    for name, weight in weights.items():
        _check(name, weight, known)
    return dict(weights)


def _check(name: str, weight: WeightPlan, known: Mapping[str, WeightSlot]) -> None:
    if name not in known:
        raise UsageError(f"weights must name weights of the layer ({', '.join(known)}): got {name!r}")
    mine, theirs = known[name], weight.slot
    sizes = [(slot.input_size, slot.gates, slot.hidden_size) for slot in (mine, theirs)]
    if sizes[0] != sizes[1]:
        raise ShapeError(
            f"the plan of {name} must be of its sizes (inputs, gates, hidden) {sizes[0]}: got {sizes[1]}; "
            "resolve the plan against this layer's slots"
        )


def module_slots(module: nn.Module, name: str = "") -> list[WeightSlot]:
    """List the input-to-hidden weights of one module that has torch.nn's recurrent attributes."""
    stack = f"{name}." if name else ""
    if isinstance(getattr(module, "num_layers", None), int):
        return _stack_slots(module, name, stack)
    kind = cell_kind(module)
    return [WeightSlot(f"{stack}weight_ih", kind, module.input_size, GATES[kind], module.hidden_size, name)]  # type: ignore[arg-type]


def cell_kind(module: nn.Module) -> str:
    """Tell lstm, gru or rnn from a cell's class name, `LSTMCell` or `TRLSTMCell`."""
    label = type(module).__name__.lower()
    return next(kind for kind in GATES if kind in label)


def _stack_slots(module: nn.Module, name: str, stack: str) -> list[WeightSlot]:
    kind = str(module.mode).split("_")[0].lower()
    directions = 2 if module.bidirectional else 1
    hidden = int(module.hidden_size)  # type: ignore[arg-type]
    fed = directions * (int(module.proj_size) or hidden)  # type: ignore[arg-type]
    slots = []
    for layer in range(module.num_layers):  # type: ignore[arg-type]
        inputs = int(module.input_size) if layer == 0 else fed  # type: ignore[arg-type]
        for reverse in (False, True)[:directions]:
            key = f"{stack}weight_ih_l{layer}" + ("_reverse" if reverse else "")
            slots.append(WeightSlot(key, kind, inputs, GATES[kind], hidden, name, layer, reverse))
    return slots
