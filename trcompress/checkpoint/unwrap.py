"""From everything a file holds to the one model in it: its tensors under their own names.

What is not the model is decided in `set_aside`; here the way down through wrappers is found, and names are made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from trcompress.checkpoint.limits import DamageError
from trcompress.checkpoint.names import AVERAGING_COUNTER, MAIN, parse_recurrent, strip_wrappers
from trcompress.checkpoint.set_aside import is_averaged, is_counter, is_training_state, outline, version_rank
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
        beside: names of tensors that the file keeps beside the model's own dict, and that are kept with it.
        places: name -> (keys of the dicts on the way to it in the file, its key there).
    """

    tensors: Mapping[str, AnyTensor | UnreadableTensor]
    hints: Mapping[str, ModuleHint] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    beside: frozenset[str] = frozenset()
    places: Mapping[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)


def unwrap(survey: Survey) -> Weights:
    """Choose the model among the groups of tensors, and give its tensors their own names.

    Raises:
        DamageError: names no model has.
    """
    choice = _Choice(dict(survey.ignored))
    groups = choice.without_averages(choice.without_training_state(_split_flat(survey.groups)))
    depth, groups = choice.go_down(groups)
    return _named(choice, groups, depth)


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


class _Choice:
    """What was set aside on the way down to the model, and what lies beside it and stays.

    Attributes:
        ignored: name -> why it was left out.
        notes: in words.
        beside: groups that are kept, each with how many leading keys of its path are wrappers.
    """

    def __init__(self, ignored: dict[str, str]) -> None:
        self.ignored = ignored
        self.notes: list[str] = []
        self.beside: list[tuple[StateDict, int]] = []

    def without_training_state(self, groups: list[StateDict]) -> list[StateDict]:
        """Set optimizers and the like aside: rule 1."""
        kept = [group for group in groups if not is_training_state(group.path)]
        rest = [group for group in groups if is_training_state(group.path)]
        self._set_aside(rest, "training state", is_training_state)
        return kept

    def without_averages(self, groups: list[StateDict]) -> list[StateDict]:
        """Prefer the trained weights to their running averages: rule 2; averages where there is nothing else."""
        averaged = [group for group in groups if is_averaged(group.path)]
        plain = [group for group in groups if not is_averaged(group.path)]
        if not any(map(_is_recurrent, averaged)):
            return groups
        if not any(map(_is_recurrent, plain)):
            self.notes.append(
                f"the weights are a running average (from {averaged[0].where}); the file holds no others"
            )
            return groups
        self._set_aside(averaged, "a running average of the weights", is_averaged)
        return plain

    def go_down(self, groups: list[StateDict]) -> tuple[int, list[StateDict]]:
        """Go down through wrappers to the model.

        Returns:
            How many leading keys of the model's paths are wrappers, and its groups (several where it is kept in
            parts: encoder, decoder).
        """
        depth = 0
        while name := _wrapper(groups, depth):
            inside = [group for group in groups if group.path[depth : depth + 1] == (name,)]
            self._sort([group for group in groups if group not in inside], inside, depth)
            groups = inside
            depth += 1
        for group in groups:
            if len(group.path) == depth and not _is_recurrent(group) and any(map(_is_recurrent, groups)):
                self._drop_counters(group)
        if any(map(_is_recurrent, groups)):
            groups = [one for one in groups if _is_recurrent(one) or not self._is_in_object(one, depth)]
        if depth and groups:
            self.notes.insert(0, f"the weights are taken from {'.'.join(groups[0].path[:depth])}")
        return depth, [group for group in groups if group.tensors]

    def _sort(self, others: list[StateDict], model: list[StateDict], depth: int) -> None:
        """Copies and counters go, all else stays with the model."""
        wanted, copies = outline(model, depth + 1), []
        for first in dict.fromkeys(group.path[depth : depth + 1] for group in others):
            same = [group for group in others if group.path[depth : depth + 1] == first]
            if first and version_rank(first[0]) and outline(same, depth + 1) == wanted:
                copies += same
                continue
            for group in same:
                if len(group.path) == depth or all(is_counter(*one) for one in group.tensors.items()):
                    self._drop_counters(group)  # those of a second dict of weights are part of it
                if group.tensors and not self._is_in_object(group, depth):
                    self.beside.append((group, depth))
        if copies:
            self._set_aside(copies, "another copy of the model", lambda path: len(path) > depth)
            taken = ".".join(model[0].path[: depth + 1])
            self.notes.append(
                f"of several copies of the model {taken} was picked, not {', '.join(g.where for g in copies[:5])}"
            )

    def _is_in_object(self, group: StateDict, depth: int) -> bool:
        """Set aside what an object holds that does not hold the model: rule 4."""
        entered = [length for length in group.objects if length > depth]
        if entered:
            where = ".".join(group.path[: entered[0]]) or "the root"
            self.ignored[where] = "a Python object with tensors of its own"
        return bool(entered)

    def _drop_counters(self, group: StateDict) -> None:
        for name, tensor in list(group.tensors.items()):
            counts, trains = is_counter(name, tensor), is_training_state([name])
            if counts or trains:
                why = "a number beside the model" if counts else "training state"
                self.ignored[".".join((*group.path, name))] = why
                del group.tensors[name]

    def _set_aside(self, groups: list[StateDict], why: str, told: Callable[[Sequence[str]], bool]) -> None:
        """Write one line for all that lies under the key that tells what it is."""
        held: dict[str, int] = {}
        for group in groups:
            length = next(k for k in range(1, len(group.path) + 1) if told(group.path[:k]))
            where = ".".join(group.path[:length])
            held[where] = held.get(where, 0) + len(group.tensors)
        self.ignored |= {where: f"{why} ({count:,} tensors)" for where, count in held.items()}


def _wrapper(groups: list[StateDict], depth: int) -> str | None:
    """The next key on the way to the model, or None where its tensors or its parts begin."""
    recurrent = [group for group in groups if _is_recurrent(group)] or groups
    below: dict[str, list[StateDict]] = {}
    for group in recurrent:
        if len(group.path) > depth:
            below.setdefault(group.path[depth], []).append(group)
    known = [name for name in below if name.lower() in MAIN]
    if known:
        return min(known, key=lambda name: MAIN.index(name.lower()))
    if not below or any(len(group.path) == depth for group in recurrent):
        return None
    alone = all(group.path[depth : depth + 1] == (name,) for group in groups for name in below)
    equal = len({outline(held, depth + 1) for held in below.values()}) == 1
    copies = equal and sum(version_rank(name) == 0 for name in below) <= 1
    loose = all(len(group.path) == depth or group.path[depth] in below for group in groups)
    return min(below, key=version_rank) if alone or copies or (len(below) == 1 and loose) else None


def _is_recurrent(group: StateDict) -> bool:
    return any(map(_is_input_weight, group.tensors))


def _is_input_weight(name: str) -> bool:
    """Return True where this is an input-to-hidden weight, folded or not."""
    for suffix in ("_g", "_v", "_orig", "_raw", ".original0", ".original1"):
        name = name.removesuffix(suffix)
    found = parse_recurrent(name)
    return found is not None and found.role == "weight_ih"


def _named(choice: _Choice, groups: list[StateDict], depth: int) -> Weights:
    """Join the groups under what is left of their paths, and strip the wrappers inside the names."""
    model, renamed = _join([(group, depth) for group in groups], choice.notes)
    beside, also_renamed = _join(choice.beside, choice.notes)
    if model.keys() & beside.keys():  # two names would become one: let each keep its whole path
        model, renamed = _join([(group, 0) for group in groups], choice.notes)
        beside, also_renamed = _join([(group, 0) for group, _ in choice.beside], choice.notes)
    hints = {
        rename(group, name): hint
        for some, rename in ((groups, renamed), ([group for group, _ in choice.beside], also_renamed))
        for group in some
        for name, hint in group.hints.items()
    }
    if AVERAGING_COUNTER in model:
        del model[AVERAGING_COUNTER]
        choice.ignored[AVERAGING_COUNTER] = "the counter of an averaged model"
        choice.notes.append("the weights are a running average (AveragedModel)")
    if beside:
        kept = ", ".join(dict.fromkeys(group.where for group, _ in choice.beside))
        choice.notes.append(f"kept with the model although beside it in the file: {kept}")
    places = {
        rename(group, name): (group.path, name)
        for some, rename in ((groups, renamed), ([group for group, _ in choice.beside], also_renamed))
        for group in some
        for name in group.tensors
    }
    notes = tuple(choice.notes)
    return Weights(model | beside, hints, choice.ignored, notes, frozenset(beside), places)


def _join(
    groups: Sequence[tuple[StateDict, int]], notes: list[str]
) -> tuple[dict[str, AnyTensor | UnreadableTensor], Callable[[StateDict, str], str]]:
    """Tensors of some groups by their stripped names, and the function that makes such a name."""
    wrapped = {group.path: depth for group, depth in groups}
    joined = {
        ".".join((*group.path[depth:], name)): tensor
        for group, depth in groups
        for name, tensor in group.tensors.items()
    }
    stripped, wrappers = strip_wrappers(joined)
    if wrappers:
        notes.append(f"wrapper prefixes stripped: {', '.join(f'{wrapper}.' for wrapper in wrappers)}")

    def rename(group: StateDict, name: str) -> str:
        full = ".".join((*group.path[wrapped[group.path] :], name))
        return stripped.get(full, full)

    return {stripped[name]: tensor for name, tensor in joined.items()}, rename
