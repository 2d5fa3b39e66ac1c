"""Tensors inside a recurrent layer's own module that its kind cannot use: another network than torch.nn's.

The rule. A layer owns the module that its weights lie in: `rnn.` for `rnn.weight_ih_l0`, `cells.0.` for
`cells.0.weight_ih`. torch.nn's modules hold weights and biases and nothing else, so anything more there (normalised
gates, peepholes, a merged bias, attention, an initial state) belongs to code that this library does not know.
Where no module is the layer's alone (weights at the root of a file, or sharing a module under names such as
`enc_w_ih`), layers before and after may lie beside them: there only tensors that look like part of a step count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from trcompress.checkpoint.names import with_prefix
from trcompress.errors import InputFileError, UsageError, nearest

_PARAMETER = re.compile(
    r"^(w|u|v|p|b|weight|bias|peephole)_?(i|f|g|o|c|r|z|n|h|x|ci|cf|co|ch|ic|oc|ih|hh|hr|rh|hp|ph|hc)?\d?(_l\d+)?$",
    re.I,
)
_STEP_WORD = re.compile(
    r"(^|[._])(peep\w*|attn|attention|zoneout\w*|gates?|h_?0|c_?0|init\w*|hh|ih|hr|hx|cx)(\d*|_\w+)([._]|$)", re.I
)
_SHOWN = 6


def foreign_tensors(
    layers: Iterable[Any], shapes: Mapping[str, Sequence[int]], elsewhere: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Find what the recurrent layers' own modules hold beside what torch.nn's would.

    Args:
        layers: of a checkpoint or an artifact.
        shapes: of every tensor, by key; cores lie under `<key>.core.<k>`.
        elsewhere: keys that come from another dict of the file, and so from no layer's module.

    Returns:
        Stack -> foreign keys; only stacks that have any.
    """
    stacks: dict[str, list[Any]] = {}
    for layer in layers:
        stacks.setdefault(layer.stack, []).append(layer)
    candidates = sorted(shapes.keys() - set(elsewhere))
    found = {stack: _inside(stack, members, candidates, shapes) for stack, members in stacks.items()}
    return {stack: keys for stack, keys in found.items() if keys}


def without_ignored(
    found: Mapping[str, tuple[str, ...]], patterns: Sequence[str], keys: Iterable[str]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Take away what the user knows better about.

    Args:
        found: from `foreign_tensors`.
        patterns: keys or globs.
        keys: all keys of the file.

    Returns:
        What is left, and the keys that were taken away.

    Raises:
        UsageError: a pattern matches no tensor of the file.
    """
    named = set(matching("ignore_unknown", patterns, keys))
    ignored = tuple(key for members in found.values() for key in members if key in named)
    left = {stack: tuple(key for key in members if key not in ignored) for stack, members in found.items()}
    return {stack: members for stack, members in left.items() if members}, ignored


def matching(option: str, patterns: Sequence[str], keys: Iterable[str]) -> tuple[str, ...]:
    """Keys that some key or glob names.

    Args:
        option: the argument that the patterns are of, for the message.
        patterns: keys or globs.
        keys: all there are.

    Raises:
        UsageError: a pattern matches nothing; with the nearest key.
    """
    known = list(keys)
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for key in known):
            raise UsageError(f"`{option}={pattern!r}` matches no tensor of the file{nearest(pattern, known)}")
    return tuple(key for key in known if any(fnmatchcase(key, one) for one in patterns))


def refuse_foreign(path: object, kinds: Mapping[str, str], found: Mapping[str, tuple[str, ...]]) -> None:
    """Stop where a layer is not the one that its shapes suggest.

    Args:
        path: the file.
        kinds: "lstm", "gru" or "rnn" by stack.
        found: from `foreign_tensors`.

    Raises:
        InputFileError: names the tensors and the ways out.
    """
    if not found:
        return
    keys = [key for members in found.values() for key in members]
    shown = ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
    stack = next(iter(found))
    raise InputFileError(
        f"{path} holds tensors that torch.nn's {kinds[stack].upper()} cannot use inside the layer "
        f"{stack or '(the root)'!r}: {shown}; such a network computes something else than its shapes suggest; to "
        "evaluate or fine-tune it give its own code, `model='package.module:factory'`; where you know that these "
        f"take no part in its steps, `ignore_unknown={_glob(keys)!r}`"
    )


def _glob(keys: Sequence[str]) -> str:
    """One pattern for all keys where they share a beginning, else the first key."""
    start = keys[0]
    while not all(key.startswith(start) for key in keys):
        start = start[:-1]
    return keys[0] if len(keys) == 1 else f"{start}*" if start else keys[0]


def _inside(
    stack: str, members: Sequence[Any], keys: Sequence[str], shapes: Mapping[str, Sequence[int]]
) -> tuple[str, ...]:
    own = {key for layer in members for key in layer.keys.values()}
    first = members[0].keys["weight_ih"]
    parent = first.rpartition(".")[0]
    prefix = f"{parent}." if parent else ""
    shared = parent != stack or not parent  # weights at the root, or `enc_w_ih` in a module with others
    lead = stack.removeprefix(prefix) + "_" if parent != stack else ""
    beside = [key for key in with_prefix(keys, prefix + lead) if key not in own and not _is_part(key, own)]
    if not shared:
        return tuple(beside)
    return tuple(key for key in beside if _steps(key.removeprefix(prefix + lead), key, members, shapes))


def _is_part(key: str, own: set[str]) -> bool:
    """Whether a key lies under one of some keys, as cores do under their weight."""
    return any(key[:at] in own for at, char in enumerate(key) if char == ".")


def _steps(name: str, key: str, members: Sequence[Any], shapes: Mapping[str, Sequence[int]]) -> bool:
    """Return True where a tensor beside shared weights looks like part of a recurrent step."""
    if _PARAMETER.match(name) or _STEP_WORD.search(name):
        return True
    widths = {size for layer in members for size in (layer.hidden_size, _gates(layer, shapes) * layer.hidden_size)}
    shape = tuple(shapes[key])
    normalises = len(shape) == 1 and shape[0] in widths
    own_parameter = "." not in name and len(shape) < 2
    return (normalises or own_parameter) and not _has_matrix(key, shapes)


def _gates(layer: Any, shapes: Mapping[str, Sequence[int]]) -> int:
    shape = shapes.get(layer.keys.get("weight_hh", ""))
    return int(shape[0] // layer.hidden_size) if shape else 1


def _has_matrix(key: str, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Return True where a vector is the bias of a matrix or a kernel beside it: an ordinary layer's."""
    parent, dot, leaf = key.rpartition(".")
    for end, weight in (("bias", "weight"), ("_b", "_w"), ("b", "W"), ("bias", "kernel")):
        if leaf.endswith(end) and len(shapes.get(parent + dot + leaf.removesuffix(end) + weight, ())) >= 2:
            return True
    return False
