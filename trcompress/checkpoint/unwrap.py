"""From everything a file holds to the one model in it: its tensors under their own names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from trcompress.checkpoint.limits import DamageError
from trcompress.checkpoint.names import (
    AVERAGING_COUNTER,
    MAIN,
    is_averaged,
    is_training_state,
    parse_recurrent,
    strip_wrappers,
    version_rank,
)
from trcompress.checkpoint.statedicts import ModuleHint, StateDict, Survey
from trcompress.checkpoint.stored import AnyTensor, UnreadableTensor

_OPTIMIZER = re.compile(r"optim(izer)?(_state)?(_dict)?$", re.IGNORECASE)
MAX_NAME = 1_000
MAX_NAME_PARTS = 100


@dataclass(frozen=True)
class Weights:
    """The tensors of one model.

    Args:
        tensors: by name, wrappers stripped.
        hints: what pickled recurrent modules say of themselves, by the name of their tensors.
        ignored: what else the file holds -> why it was left out.
        notes: what was chosen and stripped, in words.
    """

    tensors: Mapping[str, AnyTensor | UnreadableTensor]
    hints: Mapping[str, ModuleHint] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def unwrap(survey: Survey) -> Weights:
    """Choose the model among the groups of tensors, and give its tensors their own names.

    Raises:
        DamageError: names no model has.
    """
    ignored = dict(survey.ignored)
    groups = _without_training_state(_split_flat(survey.groups), ignored)
    groups, notes = _without_averages(groups, ignored)
    groups, depth = _choose(groups, ignored, notes)
    return _named(groups, depth, ignored, notes)


def _split_flat(groups: Sequence[StateDict]) -> list[StateDict]:
    """Set apart what a flat file keeps under `optimizer.` or `ema.` beside the model."""
    split: list[StateDict] = []
    for group in groups:
        firsts = {name.partition(".")[0] for name in group.tensors if "." in name and not group.module}
        recurrent = {name.partition(".")[0] for name in group.tensors if _is_input_weight(name)}
        apart = {one for one in firsts if _OPTIMIZER.match(one) or (is_averaged([one]) and one in recurrent)}
        parts: dict[tuple[str, ...], StateDict] = {}
        for name, tensor in group.tensors.items():
            _check_name(name)
            first, _, rest = name.partition(".")
            path = (*group.path, first) if first in apart and rest else group.path
            part = parts.setdefault(path, replace(group, path=path, tensors={}))
            part.tensors[rest if path != group.path else name] = tensor
        split.extend(parts.values())
    return split


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME or name.count(".") > MAX_NAME_PARTS or not name.isprintable():
        raise DamageError(f"it names a tensor as no model does, in {len(name):,} characters: {name[:60]!r}")


def _without_training_state(groups: list[StateDict], ignored: dict[str, str]) -> list[StateDict]:
    for group in groups:
        if is_training_state(group.path):
            ignored[group.where] = f"training state ({len(group.tensors):,} tensors)"
    return [group for group in groups if not is_training_state(group.path)]


def _without_averages(groups: list[StateDict], ignored: dict[str, str]) -> tuple[list[StateDict], list[str]]:
    """Prefer the trained weights to their running averages; take the averages where there is nothing else."""
    averaged = [group for group in groups if is_averaged(group.path)]
    plain = [group for group in groups if not is_averaged(group.path)]
    if not any(map(_is_recurrent, averaged)):
        return groups, []
    if not any(map(_is_recurrent, plain)):
        return groups, [f"the weights are a running average (from {averaged[0].where}); the file holds no others"]
    for group in averaged:
        ignored[group.where] = f"a running average of the weights ({len(group.tensors):,} tensors)"
    return plain, []


def _choose(groups: list[StateDict], ignored: dict[str, str], notes: list[str]) -> tuple[list[StateDict], int]:
    """Go down through wrappers to the model; where several lie side by side, prefer the known names.

    Returns:
        The groups of the model (several where it is kept in parts: encoder, decoder), and how many leading keys
        of their paths are wrappers.
    """
    depth = 0
    while name := _wrapper(groups, depth):
        _leave([group for group in groups if group.path[depth : depth + 1] != (name,)], name, ignored, notes)
        groups = [group for group in groups if group.path[depth : depth + 1] == (name,)]
        depth += 1
    direct = [group for group in groups if len(group.path) == depth]
    nested = [group for group in groups if len(group.path) > depth]
    if any(map(_is_recurrent, direct)) or not nested:
        chosen = direct
    else:
        chosen = nested + [group for group in direct if any(_numel(one) > 1 for one in group.tensors.values())]
    picked = {id(group) for group in chosen}
    _leave([group for group in groups if id(group) not in picked], "the root", ignored, notes)
    if depth and chosen:
        notes.insert(0, f"the weights are taken from {'.'.join(chosen[0].path[:depth])}")
    return chosen, depth


def _wrapper(groups: list[StateDict], depth: int) -> str | None:
    """The next key on the way to the model, or None where its tensors or its parts begin."""
    recurrent = [group for group in groups if _is_recurrent(group)] or groups
    below: dict[str, set[tuple[object, ...]]] = {}
    for group in recurrent:
        if len(group.path) > depth:
            keys = {(*group.path[depth + 1 :], name, _shape(tensor)) for name, tensor in group.tensors.items()}
            below.setdefault(group.path[depth], set()).update(keys)
    known = [name for name in below if name.lower() in MAIN]
    if known:
        return min(known, key=lambda name: MAIN.index(name.lower()))
    if not below or any(len(group.path) == depth for group in recurrent):
        return None
    alone = all(group.path[depth : depth + 1] == (name,) for group in groups for name in below)
    equal = len(set(map(frozenset, below.values()))) == 1
    copies = equal and sum(version_rank(name) == 0 for name in below) <= 1
    return min(below, key=version_rank) if alone or copies else None


def _leave(groups: list[StateDict], taken: str, ignored: dict[str, str], notes: list[str]) -> None:
    """Write down what is not part of the model."""
    for group in groups:
        if len(group.tensors) == 1:
            ignored[".".join((*group.path, *group.tensors))] = "a tensor beside the model"
        else:
            ignored[group.where] = f"{len(group.tensors):,} tensors beside the model"
    others = [group.where for group in groups if _is_recurrent(group)]
    if others:
        notes.append(f"of several models {taken} was picked, not {', '.join(others[:5])}")


def _shape(tensor: AnyTensor | UnreadableTensor) -> tuple[int, ...] | None:
    return None if isinstance(tensor, UnreadableTensor) else tensor.shape


def _numel(tensor: AnyTensor | UnreadableTensor) -> int:
    return 0 if isinstance(tensor, UnreadableTensor) else tensor.numel


def _is_recurrent(group: StateDict) -> bool:
    return any(map(_is_input_weight, group.tensors))


def _is_input_weight(name: str) -> bool:
    """Whether this is an input-to-hidden weight, folded or not."""
    for suffix in ("_g", "_v", "_orig", ".original0", ".original1"):
        name = name.removesuffix(suffix)
    found = parse_recurrent(name)
    return found is not None and found.role == "weight_ih"


def _named(groups: list[StateDict], depth: int, ignored: dict[str, str], notes: list[str]) -> Weights:
    """Join the groups under what is left of their paths, and strip the wrappers inside the names."""
    joined: dict[str, AnyTensor | UnreadableTensor] = {}
    hints: dict[str, ModuleHint] = {}
    for group in groups:
        for name, tensor in group.tensors.items():
            full = ".".join((*group.path[depth:], name))
            joined[full] = tensor
            if name in group.hints:
                hints[full] = group.hints[name]
    stripped, wrappers = strip_wrappers(joined)
    if wrappers:
        notes.append(f"wrapper prefixes stripped: {', '.join(f'{wrapper}.' for wrapper in wrappers)}")
    tensors = {stripped[name]: tensor for name, tensor in joined.items()}
    if AVERAGING_COUNTER in tensors:
        del tensors[AVERAGING_COUNTER]
        ignored[AVERAGING_COUNTER] = "the counter of an averaged model"
        notes.append("the weights are a running average (AveragedModel)")
    return Weights(tensors, {stripped[name]: hint for name, hint in hints.items()}, ignored, tuple(notes))
