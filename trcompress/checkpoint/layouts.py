"""Layouts of recurrent layers that are torch.nn's under other names: brought to its names, each with a note.

- AWD-LSTM (weight drop): the trained `weight_hh_l0_raw` is the weight, whatever dropped-out copy lies beside it.
- One bias instead of two: a zero stands for the other, which is exact.
- LSTMP: a projection (P, H) that weight_hh's columns ask for, under a name other than weight_hr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from trcompress.checkpoint.names import RecurrentName, parse_recurrent, with_prefix
from trcompress.checkpoint.stored import AnyTensor, DerivedTensor, StoredTensor, UnreadableTensor

Tensors = dict[str, AnyTensor | UnreadableTensor]

_RAW = "_raw"
_PROJECTION = re.compile(
    r"^(?:(?:weight|w)_(?:hp|ph|rh|p|r|ho|proj|projection)(?P<layer>_l\d{1,4})?(?P<reverse>_reverse)?"
    r"|(?:proj|projection|recurrent_projection|w_proj)\.weight)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Layouts:
    """Tensors under torch.nn's names.

    Args:
        tensors: all, by name.
        projections: keys that are a layer's projection under another name -> what they are.
        understood: keys in a layer's own module that are accounted for although torch.nn has none of the name.
        notes: in words.
    """

    tensors: Tensors
    projections: Mapping[str, RecurrentName]
    understood: frozenset[str]
    notes: tuple[str, ...]


def known_layouts(tensors: Tensors) -> Layouts:
    """Bring known layouts to torch.nn's names."""
    raw, understood, notes = _trained_copies(tensors)
    projections = _projections(raw)
    notes += [f"{key} is read as the projection of the hidden state (weight_hr)" for key in projections]
    whole, added = _second_biases(raw)
    if added:
        notes.append(f"{', '.join(added[:4])}: not in the file, zeros stand for the second bias (exact)")
    return Layouts(whole, projections, frozenset(understood), tuple(notes))


def _trained_copies(tensors: Tensors) -> tuple[Tensors, set[str], list[str]]:
    """`X.weight_hh_l0_raw` is the weight of `X.module` where that is the layer, else of `X`."""
    found: Tensors = dict(tensors)
    keys = sorted(tensors)
    understood: set[str] = set()
    replaced: list[str] = []
    renamed: list[str] = []
    for key, tensor in tensors.items():
        name = parse_recurrent(key.removesuffix(_RAW)) if key.endswith(_RAW) else None
        if name is None:
            continue
        parent, _, leaf = key.removesuffix(_RAW).rpartition(".")
        prefix = f"{parent}." if parent else ""
        inner = bool(with_prefix(keys, f"{prefix}module.weight_"))
        plain = f"{prefix}module.{leaf}" if inner else f"{prefix}{leaf}"
        (replaced if plain in tensors else renamed).append(plain)
        found[plain] = tensor
        understood.add(key)
        if name.role == "weight_ih":
            del found[key]  # it is what gets compressed: a dense copy beside it would undo that
    notes = []
    if renamed or replaced:
        shown = ", ".join([*renamed, *replaced][:4])
        copies = "; the dropped-out copies in the file are not used" if replaced else ""
        notes.append(f"weight drop (AWD-LSTM): the trained weight is taken from its _raw for {shown}{copies}")
    return found, understood, notes


def _second_biases(tensors: Tensors) -> tuple[Tensors, list[str]]:
    """Add a zero bias where a layer of a stack has one of two, or none beside layers that have some."""
    found: Tensors = {}
    stacks: dict[str, dict[tuple[int, bool], dict[str, str]]] = {}
    for key in tensors:
        name = parse_recurrent(key)
        if name is not None:
            stacks.setdefault(name.stack, {}).setdefault((name.layer, name.reverse), {})[name.role] = key
    missing: dict[str, list[str]] = {}  # weight_ih -> the biases to add behind it
    for layers in stacks.values():
        biased = any(role.startswith("bias") for roles in layers.values() for role in roles)
        for roles in layers.values():
            if biased and {"weight_ih", "weight_hh"} <= roles.keys():
                lacking = [role for role in ("bias_ih", "bias_hh") if role not in roles]
                other = roles.get("bias_ih") or roles.get("bias_hh")
                missing[roles["weight_ih"]] = [_renamed(other, roles["weight_ih"], role) for role in lacking]
    for key, tensor in tensors.items():
        found[key] = tensor
        found |= {bias: _zeros_like_rows(tensor) for bias in missing.get(key, ())}
    return found, [bias for biases in missing.values() for bias in biases]


def _renamed(other: str | None, weight: str, role: str) -> str:
    """The name of a bias, spelled as the other bias is, or else as the weight."""
    side = role[-2:]
    start = other or re.sub(r"(w)(eight)?_ih", lambda m: "b" + ("ias" if m[2] else "") + "_ih", weight, flags=re.I)
    parent, dot, leaf = start.rpartition(".")
    return parent + dot + re.sub(r"_(ih|hh)(?=_|$)", f"_{side}", leaf, flags=re.I)


def _zeros_like_rows(weight: AnyTensor | UnreadableTensor) -> AnyTensor | UnreadableTensor:
    if isinstance(weight, UnreadableTensor) or not weight.shape:
        return UnreadableTensor("the bias of a weight that cannot be read")
    rows, dtype = weight.shape[0], weight.dtype
    return DerivedTensor(dtype, (rows,), lambda: torch.zeros(rows, dtype=dtype))


def _projections(tensors: Tensors) -> dict[str, RecurrentName]:
    """Tensors (P, H) beside weight_ih (4H, I) and weight_hh (4H, P), without a bias of their own."""
    projections: dict[str, RecurrentName] = {}
    named: dict[str, list[tuple[str, re.Match[str]]]] = {}
    keys = sorted(tensors)
    for key, hidden in tensors.items():
        name = parse_recurrent(key)
        if (
            name is None
            or name.role != "weight_hh"
            or isinstance(hidden, UnreadableTensor)
            or len(hidden.shape) != 2
        ):
            continue
        rows, size = hidden.shape
        parent = key.rpartition(".")[0]
        prefix = f"{parent}." if parent else ""
        suffix = ("" if name.cell else f"_l{name.layer}") + ("_reverse" if name.reverse else "")
        if prefix not in named:
            named[prefix] = [
                (other, found) for other in with_prefix(keys, prefix) if (found := _projects(other, prefix))
            ]
        for other, match in named[prefix]:
            tensor = tensors[other]
            if not isinstance(tensor, StoredTensor) or tensor.shape != (size, rows // 4):
                continue
            own = (match["layer"] or "") + (match["reverse"] or "")
            if size < rows // 4 and own in (suffix, "") and f"{other.removesuffix('weight')}bias" not in tensors:
                projections[other] = name._replace(role="weight_hr")
    return projections


def _projects(key: str, prefix: str) -> re.Match[str] | None:
    return _PROJECTION.match(key.removeprefix(prefix))
