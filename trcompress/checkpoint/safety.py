"""Which pickles are refused although reading them here runs nothing: those that would run code elsewhere.

A whole `torch.nn.Module` names the classes of its author, and that is allowed: each becomes an inert stand-in.
Calls of functions, anything of the standard library beyond plain values, and foreign classes beside plain
weights are not.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trcompress.checkpoint.inert import Global, Pickle
from trcompress.checkpoint.meanings import MEANINGS
from trcompress.errors import UnsafeFileError

_KNOWN_ROOTS = frozenset({"torch", "numpy", "__torch__"})
_PLAIN = frozenset(
    Global(module, name)
    for module, names in {
        "builtins": "object type int float str bool tuple NoneType Ellipsis getattr",
        "copyreg": "_reconstructor __newobj__ __newobj_ex__",
        "collections": "UserDict UserList",
    }.items()
    for name in names.split()
)
_ALIASES = {"posix": "os", "nt": "os"}
_SHOWN = 8


def refuse_unsafe(path: Path, pickles: list[Pickle], *, skip_objects: bool = False) -> None:
    """Raise if the pickles hold what a checkpoint of weights has no business to hold.

    Raises:
        UnsafeFileError: names each blocked global and the safe way out.
    """
    blocked = {name for found in pickles for name in blocked_globals(found, skip_objects=skip_objects)}
    skippable = not any(blocked_globals(found, skip_objects=True) for found in pickles)
    _refuse(path, blocked, "; or leave such objects out: `skip_objects=True`" if skippable else "")


def refuse_calls(path: Path, pickles: list[Pickle]) -> None:
    """Raise if pickles that could not be read to their end had already asked for a call.

    Raises:
        UnsafeFileError: names each blocked global and the safe way out.
    """
    _refuse(path, {name for found in pickles for name in _calls(found)})


def blocked_globals(found: Pickle, *, skip_objects: bool = False) -> set[str]:
    """Names of what makes this pickle unsafe; empty for plain weights and for whole modules."""
    foreign_allowed = bool(found.modules) or skip_objects
    named = found.made if skip_objects else found.named  # a name that is only mentioned does nothing to anyone
    return _calls(found) | {_shown(one) for one in named if _refused(one, foreign_allowed)}


def _refuse(path: Path, blocked: set[str], other_way: str = "") -> None:
    if not blocked:
        return
    names = sorted(blocked)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise UnsafeFileError(
        f"{path} is refused as unsafe: its pickle holds {', '.join(names[:_SHOWN])}{more}, beyond plain weights "
        "(nothing of it was run); where you trust the file, load it there and save the weights alone: "
        "torch.save(model.state_dict(), 'weights.pt') or "
        f"safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'){other_way}"
    )


def _calls(found: Pickle) -> set[str]:
    """Calls, but for those into the packages of a whole module's own classes (an enum value, say)."""
    own = {_root(module.origin) for module in found.modules} - _KNOWN_ROOTS - sys.stdlib_module_names
    return {_shown(origin) for origin, _ in found.calls if _root(origin) not in own} | set(found.altered)


def _refused(named: Global, foreign_allowed: bool) -> bool:
    if named in MEANINGS or named in _PLAIN or _root(named) in _KNOWN_ROOTS:
        return False
    return _is_stdlib(named) or not foreign_allowed


def _root(named: Global) -> str:
    return named.module.partition(".")[0]


def _is_stdlib(named: Global) -> bool:
    return _root(named) in sys.stdlib_module_names


def _shown(named: Global) -> str:
    if not named.module:
        return "a call of a computed value"
    root = _root(named)
    alias = f" (that is {_ALIASES[root]}.{named.name})" if root in _ALIASES else ""
    return f"{named!s:.120}{alias}"
