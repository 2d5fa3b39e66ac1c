"""What a pickle's globals and objects become here: names and data, never the things themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trcompress.checkpoint.limits import DamageError, shown

_MAX_KEY_PARTS = 64
_MAX_KEY_BITS = 64


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to; never resolved."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Instance:
    """A stand-in for an object: its class by name, and the data the pickle gave it."""

    origin: Global
    args: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)
    raw_state: Any = None

    def __repr__(self) -> str:  # never its contents: what a file nests may be endless
        return f"<{self.origin.module[:100]}.{self.origin.name[:100]}>"


Meaning = Callable[[tuple[Any, ...]], Any]


@dataclass
class Pickle:
    """What one pickle holds.

    Args:
        value: the object, of plain containers, numbers, text, `Global`, `Instance` and what `meanings` build.
        named: every global it refers to.
        made: the globals it makes an object of, calls or changes; all others are only mentioned.
        modules: the stand-ins for whole `torch.nn.Module`s.
        calls: the globals it wanted to call, each with the stand-in for the result.
        altered: globals it wanted to change, or calls of something that is not a global.
    """

    value: Any = None
    named: set[Global] = field(default_factory=set)
    made: set[Global] = field(default_factory=set)
    modules: list[Instance] = field(default_factory=list)
    calls: list[tuple[Global, Instance]] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)


def is_module(value: Any) -> bool:
    """Return True where this stands for a `torch.nn.Module`, by the attributes that every one has."""
    return isinstance(value, Instance) and all(
        isinstance(value.state.get(name), dict) for name in ("_parameters", "_modules")
    )


def plain_key(key: Any) -> Any:
    """Allow as dict keys what hashes in constant time and depth; a tuple becomes its text.

    Whole numbers and tuples have hashes that a file can make collide, so that a dict of n entries takes n^2 steps;
    of numbers of 64 bits no more than 16 collide.

    Raises:
        DamageError: it is no such key.
    """
    scalars = (str, bytes, int, float, type(None), Global, Instance)
    if isinstance(key, int) and key.bit_length() > _MAX_KEY_BITS:
        raise DamageError(f"its pickle uses {shown(key)} as the key of a dict")
    if isinstance(key, scalars):
        return key
    if isinstance(key, tuple) and len(key) <= _MAX_KEY_PARTS and all(isinstance(part, scalars) for part in key):
        return f"({', '.join(repr(part) if isinstance(part, str) else shown(part) for part in key)})"
    raise DamageError(f"its pickle uses a {type(key).__name__} as the key of a dict")
