"""Calls in pickles that only spell a name: `torch.relu`, `Optional[int]`. Told apart by a closed table."""

from __future__ import annotations

from typing import Any

from trcompress.checkpoint.inert import Global

_GETATTR = Global("builtins", "getattr")
_GETITEM = (Global("operator", "getitem"), Global("_operator", "getitem"))
_OR = (Global("operator", "or_"), Global("_operator", "or_"))
_REDUCE = Global("functools", "reduce")
_TYPE = Global("builtins", "type")


def torch_attribute(origin: Any, args: tuple[Any, ...]) -> Global | None:
    """Read the name of a function such as `torch.relu`; calling it stays blocked."""
    match args:
        case Global() as owner, str() as name if origin == _GETATTR and owner.module.partition(".")[0] == "torch":
            return Global(str(owner), name)
    return None


def makes_type_hint(origin: Any, args: tuple[Any, ...]) -> bool:
    """Return True for the calls by which `Optional[int]`, `int | None` and NoneType are pickled."""
    if not args:
        return False
    first = args[0]
    if origin in _GETITEM:
        return isinstance(first, Global) and first.module in ("typing", "builtins")
    return (origin == _TYPE and args == (None,)) or (origin == _REDUCE and first in _OR)
