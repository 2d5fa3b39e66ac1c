"""Every group of named tensors in a file: state dicts at any depth, whole modules, TorchScript objects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from trcompress.checkpoint.inert import Global, Instance, is_module
from trcompress.checkpoint.limits import DamageError, shown
from trcompress.checkpoint.numpy_values import Storages, array_in, objects_in
from trcompress.checkpoint.stored import AnyTensor, DerivedTensor, StoredTensor, UnreadableTensor
from trcompress.model.kinds import KINDS, MODES

MAX_DEPTH = 100
MAX_NODES = 2_000_000
_MAX_ENTRIES = 8_000_000  # a pickle's steps can make no more, but they can put one dict in a million places
_MAX_CHARACTERS = 50_000_000
_MAX_TENSORS = 100_000
_LONG_LIST = 1_000
_MANY = 12
_LONGEST_NAME = 2_000
_PLAIN = (str, bytes, int, float, complex, type(None), Global)
_OPTIMIZER_KEYS = frozenset({"state", "param_groups"})
_RNN_CLASS = re.compile(rf"({'|'.join(kind.module for kind in KINDS.values())})(Cell)?$")


@dataclass(frozen=True)
class ModuleHint:
    """What a pickled recurrent module says of itself beyond its weights.

    Args:
        kind: "lstm", "gru" or "rnn".
        options: `nonlinearity`, `batch_first`, `dropout` where known.
    """

    kind: str
    options: dict[str, Any]


@dataclass
class StateDict:
    """Tensors by name, and where in the file they were.

    Args:
        path: the keys that lead to it from the root.
        tensors: by name.
        hints: by the name of a tensor of a recurrent module.
        module: it comes from a whole module, so its names are exact.
        objects: how long the paths are at which Python objects that are no modules were entered.
    """

    path: tuple[str, ...]
    tensors: dict[str, AnyTensor | UnreadableTensor] = field(default_factory=dict)
    hints: dict[str, ModuleHint] = field(default_factory=dict)
    module: bool = False
    objects: tuple[int, ...] = ()

    @property
    def where(self) -> str:
        """The path in words."""
        return ".".join(self.path) or "the root"


@dataclass
class Survey:
    """What a walk over a file's object found.

    Args:
        groups: every group of tensors, outermost first.
        ignored: what holds no tensors of a model -> what it is.
    """

    groups: list[StateDict] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)


def survey(root: Any) -> Survey:
    """Walk over a file's object; where it holds no tensor of PyTorch, NumPy's arrays are its tensors.

    Raises:
        DamageError: nested deeper than any model, or with more parts.
    """
    walk = _Walk(arrays=False)
    if not walk.visit(root, ()):
        arrays = _Walk(arrays=True)
        walk = arrays if arrays.visit(root, ()) else walk
    return walk.found


class _Walk:
    def __init__(self, *, arrays: bool) -> None:
        self._arrays = arrays
        self.found = Survey()
        self._groups: dict[tuple[str, ...], StateDict] = {}
        self._nodes = self._entries = self._characters = self._tensors = 0
        self._storages: Storages = {}
        self._open: set[int] = set()
        self._objects: list[int] = []

    def visit(self, node: Any, path: tuple[str, ...]) -> bool:
        """Look into one part of the object; `path` leads to it. Tell whether tensors were in it."""
        if id(node) in self._open:
            return False
        self._count(len(path))
        if self._arrays:
            objects, array = objects_in(node), array_in(node, self._storages)
            node = objects if objects is not None else array if array is not None else node
        if _is_tensor(node):
            self._joined(path)
            self._tensors += 1
            self._group(path[:-1]).tensors[path[-1] if path else ""] = node
            return True
        if _children_of(node).keys() >= _OPTIMIZER_KEYS:
            self.found.ignored[self._joined(path)] = f"optimizer state ({_tensor_count(node):,} tensors)"
            return True
        self._open.add(id(node))
        if is_module(node) or _is_scripted(node):
            group = StateDict(path, module=True, objects=tuple(self._objects))
            self.found.groups.append(group)
            self._module(node, "", group, None, len(path))
            held = True
        elif isinstance(node, Instance):
            self._objects.append(len(path))
            held = self._children(node, path)
            self._objects.pop()
        else:
            held = self._children(node, path)
        self._open.discard(id(node))
        return held

    def _children(self, node: Any, path: tuple[str, ...]) -> bool:
        entries = _children_of(node)
        self._entries += len(entries)
        children = {name: child for name, child in entries.items() if not isinstance(child, _PLAIN)}
        held = {name for name, child in children.items() if self.visit(child, (*path, shown(name, 200)))}
        if held:
            self._ignore_rest({name: child for name, child in entries.items() if name not in held}, path)
        return bool(held)

    def _ignore_rest(self, rest: dict[Any, Any], path: tuple[str, ...]) -> None:
        """Write down what lies beside tensors without holding any: in one line but for a few at the root."""
        if len(rest) > (0 if path else _MANY):
            self.found.ignored[self._joined(path)] = f"{len(rest):,} entries without tensors"
            return
        for name, child in rest.items():
            self.found.ignored[self._joined((*path, shown(name, 200)))] = _describe(child)

    def _group(self, path: tuple[str, ...]) -> StateDict:
        if path not in self._groups:
            self._groups[path] = StateDict(path, objects=tuple(self._objects))
            self.found.groups.append(self._groups[path])
        return self._groups[path]

    def _module(self, node: Instance, prefix: str, group: StateDict, hint: ModuleHint | None, depth: int) -> None:
        """Name the tensors of a module as its `state_dict()` would."""
        self._count(depth)
        hint = _hint(node) or hint
        tensors, modules = _parts_of(node)
        self._entries += len(tensors) + len(modules)
        self._tensors += len(tensors)
        self._characters += len(prefix) * (1 + len(tensors) + len(modules))
        for name, tensor in tensors.items():
            group.tensors[prefix + name] = tensor
            if hint is not None:
                group.hints[prefix + name] = hint
        for name, module in modules.items():
            if id(module) in self._open:
                continue
            self._open.add(id(module))
            self._module(module, f"{prefix}{name}.", group, hint, depth + 1)
            self._open.discard(id(module))

    def _count(self, depth: int) -> None:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES or self._entries > _MAX_ENTRIES:
            raise DamageError(
                f"its object is nested deeper than {MAX_DEPTH} levels or has over {MAX_NODES:,} parts"
            )
        if self._tensors > _MAX_TENSORS:
            raise DamageError(f"it lists over {_MAX_TENSORS:,} tensors; at most so many are read")
        if self._characters > _MAX_CHARACTERS:
            raise DamageError(f"the names in it take over {_MAX_CHARACTERS:,} characters: no model's")

    def _joined(self, path: tuple[str, ...]) -> str:
        """A path as a name; each is kept, and one object may be in many places."""
        self._characters += sum(map(len, path))
        return ".".join(path) or "the root"


def _parts_of(node: Instance) -> tuple[dict[str, Any], dict[str, Instance]]:
    """Parameters and persistent buffers of a module, and its children."""
    if not is_module(node):
        attributes = node.state
        tensors = {name: value for name, value in attributes.items() if _is_tensor(value)}
        return tensors, {name: value for name, value in attributes.items() if _is_scripted(value)}
    fleeting = node.state.get("_non_persistent_buffers_set") or ()
    tensors = {name: value for name, value in node.state.items() if isinstance(value, UnreadableTensor)}
    for kind in ("_parameters", "_buffers"):
        held = node.state.get(kind)
        for name, value in (held if isinstance(held, dict) else {}).items():
            if _is_tensor(value) and not (kind == "_buffers" and name in fleeting):
                tensors[shown(name, _LONGEST_NAME)] = value
    children = node.state["_modules"].items()
    return tensors, {
        shown(name, _LONGEST_NAME): child for name, child in children if is_module(child) or _is_scripted(child)
    }


def _hint(node: Instance) -> ModuleHint | None:
    """What a module of class LSTM, GRU, RNN or a cell, or of a class made from one, says of itself."""
    name, stated = _RNN_CLASS.search(node.origin.name), node.state.get("mode")
    mode = stated if isinstance(stated, str) else ""
    kind = MODES.get(mode)
    if kind is None and name is not None and "torch.nn.modules.rnn" in node.origin.module:
        kind = KINDS[name.group(1).lower()]
    if kind is None:
        return None
    options: dict[str, Any] = {}
    nonlinearity = kind.modes.get(mode, node.state.get("nonlinearity"))
    if nonlinearity in kind.nonlinearities:
        options["nonlinearity"] = nonlinearity
    if isinstance(node.state.get("batch_first"), bool):
        options["batch_first"] = node.state["batch_first"]
    dropout = node.state.get("dropout")
    if isinstance(dropout, int | float) and 0 <= dropout <= 1:
        options["dropout"] = float(dropout)
    return ModuleHint(kind.name, options)


def _children_of(node: Any) -> dict[Any, Any]:
    """What to look into, by name; nothing in a plain value."""
    if isinstance(node, dict):
        return node
    if isinstance(node, list | tuple):
        return dict(enumerate(node)) if len(node) <= _LONG_LIST else {}
    if isinstance(node, Instance):
        return {**node.state, **node.items, **dict(enumerate(node.elements[:_LONG_LIST]))}
    return {}


def _is_tensor(node: Any) -> bool:
    return isinstance(node, StoredTensor | DerivedTensor | UnreadableTensor)


def _is_scripted(node: Any) -> bool:
    return isinstance(node, Instance) and node.origin.module.partition(".")[0] == "__torch__"


def _tensor_count(node: Any) -> int:
    states = _children_of(node)["state"]
    values = states.values() if isinstance(states, dict) else ()
    return sum(_is_tensor(value) for one in values if isinstance(one, dict) for value in one.values())


def _describe(node: Any) -> str:
    """A value in a few words, for the list of what was ignored."""
    if isinstance(node, bool | int | float) or node is None:
        return f"the value {shown(node, 40)}"
    if isinstance(node, str | bytes):
        return f"text ({len(node):,} characters)"
    if isinstance(node, dict | list | tuple):
        return f"a {type(node).__name__} of {len(node):,} entries without tensors"
    if isinstance(node, Instance):
        return f"an object of {shown(node.origin)}"
    return f"a reference to {shown(node)}"
