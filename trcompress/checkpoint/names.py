"""What the names in a checkpoint say: which hold recurrent weights, which wrappers left their mark."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_RECURRENT = re.compile(
    r"^(?:(?P<stack>.+)_)?(?P<what>weight|bias|w|b)_(?P<side>ih|hh|hr)(?:_l(?P<layer>\d{1,4}))?(?P<reverse>_reverse)?$",
    re.IGNORECASE,
)
_ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_WRAPPER = "module"
AVERAGING_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside its `module`

MAIN = (
    "model_state_dict",
    "model_state",
    "state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "parameters",
    "student",
)
"""Names under which training scripts keep the model that matters, the most telling first."""


class RecurrentName(NamedTuple):
    """A key taken apart: `decoder.rnn.weight_ih_l1_reverse`, `enc_w_ih`, `cell.bias_hh`."""

    stack: str
    role: str
    layer: int
    reverse: bool
    cell: bool


def parse_recurrent(key: str) -> RecurrentName | None:
    """Take the name of a recurrent weight apart; None for any other name.

    Example:
        >>> parse_recurrent("encoder.rnn.weight_ih_l1_reverse")
        RecurrentName(stack='encoder.rnn', role='weight_ih', layer=1, reverse=True, cell=False)
        >>> parse_recurrent("enc_w_hh").stack
        'enc'
    """
    parent, _, leaf = key.rpartition(".")
    found = _RECURRENT.match(leaf)
    if found is None or (found["side"].lower() == "hr" and found["what"].lower()[0] == "b"):
        return None
    what = "weight" if found["what"].lower().startswith("w") else "bias"
    stack = ".".join(part for part in (parent, found["stack"]) if part)
    layer = int(found["layer"] or 0)
    return RecurrentName(
        stack, f"{what}_{found['side'].lower()}", layer, bool(found["reverse"]), found["layer"] is None
    )


def with_prefix(keys: Sequence[str], prefix: str) -> Sequence[str]:
    """Keys that begin with a prefix.

    Args:
        keys: sorted.
        prefix: any text.
    """
    return keys[bisect_left(keys, prefix) : bisect_left(keys, f"{prefix}\U0010ffff")]


def is_recurrent_name(key: str) -> bool:
    """Return True where a key is named as a recurrent layer's matrix."""
    found = parse_recurrent(key)
    return found is not None and found.role in ("weight_ih", "weight_hh")


def strip_wrappers(keys: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Take `module.`, `_orig_mod.` and their like out of names, wherever a wrapper put them.

    `module` is only taken out where every name beside it goes through it: it may be a model's own.

    Returns:
        New name by old name, and the wrappers that were found.
    """
    names = {key: key.split(".") for key in keys}
    found: set[str] = set()
    for parts in names.values():
        found.update(part for part in parts[:-1] if part in _ANYWHERE)
        parts[:-1] = [part for part in parts[:-1] if part not in _ANYWHERE]
    while parents := _module_parents(names.values()):
        found.add(_WRAPPER)
        for parts in names.values():
            for k in range(len(parts) - 2, -1, -1):
                if parts[k] == _WRAPPER and tuple(parts[:k]) in parents:
                    del parts[k]
    stripped = {key: ".".join(parts) for key, parts in names.items()}
    if len(set(stripped.values())) < len(stripped):
        return {key: key for key in stripped}, ()
    return stripped, tuple(sorted(found))


def _module_parents(names: Iterable[list[str]]) -> set[tuple[str, ...]]:
    """Paths whose only child is `module`."""
    children: dict[tuple[str, ...], set[str]] = {}
    for parts in names:
        if parts == [AVERAGING_COUNTER]:
            continue
        for k, part in enumerate(parts):
            leaf = k + 1 == len(parts)
            children.setdefault(tuple(parts[:k]), set()).add(f".{part}" if leaf else part)
    return {path for path, below in children.items() if below == {_WRAPPER}}
