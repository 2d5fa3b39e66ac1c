"""Keys and shapes -> recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from trcompress.checkpoint.kinds import Decision, KindRule, decide, told_nonlinearity
from trcompress.checkpoint.names import RecurrentName, parse_recurrent
from trcompress.checkpoint.statedicts import ModuleHint
from trcompress.checkpoint.stored import AnyTensor, UnreadableTensor
from trcompress.errors import InputFileError, UsageError
from trcompress.model.kinds import KINDS
from trcompress.model.layer import ROLES, Layer

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class _Parts:
    name: RecurrentName
    keys: dict[str, str] = field(default_factory=dict)


def find_layers(
    tensors: Mapping[str, AnyTensor | UnreadableTensor],
    hints: Mapping[str, ModuleHint],
    rules: Sequence[KindRule] = (),
    projections: Mapping[str, RecurrentName] | None = None,
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Find every recurrent layer by its keys and shapes.

    Args:
        tensors: of the model, by key.
        hints: what pickled modules say of themselves, by key.
        rules: the user's `kind`.
        projections: keys of projections that have another name than weight_hr.

    Returns:
        The layers, stack by stack, and notes on what looks recurrent but is nothing PyTorch has.

    Raises:
        InputFileError: shapes that contradict each other, a layer or direction missing, unusable dtypes.
        UsageError: a rule matches no stack.
    """
    layers, notes = [], []
    for parts in _group(tensors, projections or {}).values():
        found = _layer(parts, tensors, hints, rules)
        if isinstance(found, Layer):
            layers.append(found)
        else:
            notes.append(found)
    stacks: dict[str, list[Layer]] = {}
    for layer in layers:
        stacks.setdefault(layer.stack, []).append(layer)
    for rule in rules:
        if stacks and not any(rule.matches(stack) for stack in stacks):
            raise UsageError(
                f"`kind` names no stack: {rule.glob!r} matches none of: {', '.join(map(repr, stacks))}"
            )
    for stack in stacks.values():
        stack.sort(key=lambda layer: (layer.index, layer.reverse))
        _check_stack(stack)
    return tuple(layer for stack in stacks.values() for layer in stack), tuple(notes)


def _group(tensors: Mapping[str, Any], projections: Mapping[str, RecurrentName]) -> dict[tuple[Any, ...], _Parts]:
    groups: dict[tuple[Any, ...], _Parts] = {}
    for key in tensors:
        name = projections.get(key) or parse_recurrent(key)
        if name is None:
            continue
        parts = groups.setdefault((name.stack, name.layer, name.reverse, name.cell), _Parts(name))
        if name.role in parts.keys:
            raise InputFileError(f"two tensors claim to be one weight: {parts.keys[name.role]!r} and {key!r}")
        parts.keys[name.role] = key
    return groups


def _layer(
    parts: _Parts,
    tensors: Mapping[str, AnyTensor | UnreadableTensor],
    hints: Mapping[str, ModuleHint],
    rules: Sequence[KindRule],
) -> Layer | str:
    """Make a layer of its parts, or say why they are none."""
    name, keys = parts.name, parts.keys
    shapes = _shapes(keys, tensors)
    if isinstance(shapes, str):
        return shapes
    rows, columns = shapes["weight_ih"]
    hint = hints.get(keys["weight_ih"])
    _check_orientation(keys, shapes)
    hidden, projection = shapes.get("weight_hh"), shapes.get("weight_hr")
    decision = decide(name.stack, rows, hidden, projection, rules=rules, hint=hint.kind if hint else None)
    if decision is None:
        return (
            f"{keys['weight_ih']} {shapes['weight_ih']} with weight_hh {hidden} is no LSTM, GRU "
            "or RNN (4, 3 or 1 gates over its hidden units); left as it is"
        )
    proj = projection[0] if projection else 0
    _check_shapes(keys, shapes, decision, proj)
    options = dict(hint.options) if hint and hint.kind == decision.kind else {}
    if told := told_nonlinearity(name.stack, rules):
        options["nonlinearity"] = told
    frozen = {role: keys[role] for role in ROLES if role in keys}
    return Layer(
        stack=name.stack,
        kind=decision.kind,
        index=name.layer,
        reverse=name.reverse,
        input_size=columns,
        hidden_size=decision.hidden_size,
        proj_size=proj,
        cell=name.cell,
        keys=MappingProxyType(frozen),
        decided_by=decision.decided_by,
        **options,
    )


def _shapes(
    keys: Mapping[str, str], tensors: Mapping[str, AnyTensor | UnreadableTensor]
) -> dict[str, tuple[int, ...]] | str:
    """Each tensor's shape by its role, or why they are no layer."""
    if "weight_ih" not in keys:
        return f"{next(iter(keys.values()))!r} looks recurrent but has no weight_ih beside it; left as it is"
    shapes = {role: _shape(key, tensors[key]) for role, key in keys.items()}
    matrices = [role for role in shapes if role.startswith("weight")]
    if any(len(shapes[role]) != 2 or 0 in shapes[role] for role in matrices):
        found = ", ".join(f"{keys[role]} {shapes[role]}" for role in matrices)
        return f"{found}: not the matrices of a PyTorch recurrent layer; left as they are"
    return shapes


def _shape(key: str, tensor: AnyTensor | UnreadableTensor) -> tuple[int, ...]:
    if isinstance(tensor, UnreadableTensor):
        raise InputFileError(
            f"the recurrent weight {key!r} is {tensor.reason}: only plain dense weights can be compressed; "
            "save the model before it was quantized or converted"
        )
    if tensor.dtype not in _FLOATS:
        raise InputFileError(
            f"recurrent weights must be float16, bfloat16, float32 or float64: {key!r} is "
            f"{str(tensor.dtype).removeprefix('torch.')}; convert it and save again"
        )
    return tensor.shape


def _check_orientation(keys: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    rows, columns = shapes.get("weight_hh", (0, 0))
    if columns > rows and columns == shapes["weight_ih"][1] and columns % rows == 0:
        raise InputFileError(
            f"weights must be (gates * hidden, input) as PyTorch keeps them: {keys['weight_ih']!r} "
            f"{shapes['weight_ih']} and {keys['weight_hh']!r} {shapes['weight_hh']} look transposed; transpose both"
        )


def _check_shapes(
    keys: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], decision: Decision, proj: int
) -> None:
    rows, hidden = shapes["weight_ih"][0], decision.hidden_size
    if proj and (not KINDS[decision.kind].projects or proj >= hidden):
        raise InputFileError(
            f"only an LSTM has a projection, and a smaller one than its hidden size: {keys['weight_hr']!r} is "
            f"{shapes['weight_hr']} on a {decision.kind.upper()} of {hidden:,} units"
        )
    expected = {
        "weight_hh": (rows, proj or hidden),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
        "weight_hr": (proj, hidden),
    }
    for role, shape in expected.items():
        if role in shapes and shapes[role] != shape:
            raise InputFileError(
                f"{keys[role]!r} must be {shape} beside {keys['weight_ih']!r} {shapes['weight_ih']}: "
                f"it is {shapes[role]}; the checkpoint mixes two models or is damaged"
            )


def _check_stack(stack: Sequence[Layer]) -> None:
    """Layers 0 .. n-1 all there, each direction in all or none, each fed by the one below."""
    name, two_way = stack[0].stack or "the root", any(layer.reverse for layer in stack)
    places = {(layer.index, layer.reverse) for layer in stack}
    depth = max(layer.index for layer in stack) + 1
    directions = (False, True) if two_way else (False,)
    missing = [
        f"weight_ih_l{layer}" + ("_reverse" if reverse else "")
        for layer in range(min(depth, len(stack) + 1))
        for reverse in directions
        if (layer, reverse) not in places
    ]
    if len(places) != len(stack):
        raise InputFileError(f"stack {name!r} holds two sets of weights for one layer, with and without _l0")
    if missing:
        raise InputFileError(
            f"stack {name!r} is incomplete: {', '.join(missing[:5])} missing beside {len(stack)} others; "
            "save the whole model's state_dict"
        )
    for layer in stack:
        below = [one for one in stack if one.index == layer.index - 1]
        fed = sum(one.output_size for one in below)
        if below and layer.input_size != fed:
            raise InputFileError(
                f"layer {layer.index} of stack {name!r} must take the {fed:,} values of layer {layer.index - 1}: "
                f"{layer.keys['weight_ih']!r} takes {layer.input_size:,}"
            )
