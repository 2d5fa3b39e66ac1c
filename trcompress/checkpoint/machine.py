"""Read a pickle without running it: a stack machine that builds plain containers and inert stand-ins.

Nothing is imported, no class is instantiated and no callable of the pickle is called. A global becomes a
`Global`, an object of a class an `Instance`; the few globals that mean something to us (an ordered dict, a
tensor) are given as `meanings`, functions of this package that take the arguments as data. What the pickle
wanted to call is written down in `calls`, for the caller to judge.
"""

from __future__ import annotations

import pickletools
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from trcompress.checkpoint.inert import Global, Instance, Meaning, Pickle, is_module, plain_key
from trcompress.checkpoint.limits import ENTRY_BYTES, Allowance, DamageError, LimitedStream, in_short, shown
from trcompress.checkpoint.references import makes_type_hint, torch_attribute

MAX_STEPS = 6_000_000
_MAX_MEMO = 1 << 32

_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_UNICODES = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_PUSH_ARGUMENT = frozenset(_NUMBERS | _TEXTS | _UNICODES | _BYTES)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_FIRST_PYTHON3_PROTOCOL = 3  # below it, names are spelled as Python 2 knew them


class PickleMachine:
    """One run over one pickle.

    Args:
        stream: binary, positioned at the pickle; left just behind it.
        allowance: the memory that what it holds may take.
        meanings: what to make of a call of a known global.
        persistent: what to make of a persistent id (a tensor's storage).
    """

    def __init__(
        self,
        stream: IO[bytes],
        meanings: Mapping[Global, Meaning],
        allowance: Allowance,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.found = Pickle()
        self._stream = stream
        self._meanings = meanings
        self._allowance, self._spend = allowance, allowance.spend
        self._persistent = persistent
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._protocol = 0

    def run(self) -> Pickle:
        """Read up to STOP.

        Raises:
            DamageError: truncated, malformed or absurdly large; `found` then tells what had been seen.
        """
        try:
            for step, (opcode, argument, _) in enumerate(
                pickletools.genops(cast(IO[bytes], LimitedStream(self._stream)))
            ):
                if step > MAX_STEPS:
                    raise DamageError(f"its pickle has more than {MAX_STEPS:,} steps")
                if opcode.name == "STOP":
                    self.found.value = self._pop()
                    return self.found
                self._step(opcode.name, argument)
        except DamageError:
            raise
        except (ValueError, OverflowError, EOFError) as error:
            raise DamageError(f"its pickle does not read ({in_short(error)})") from error
        raise DamageError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        self._allowance.spend_on_step(name)
        if name in _PUSH_ARGUMENT:
            self._spend(sys.getsizeof(argument))
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _MAKERS:
            made = _MAKERS[name](self)  # may change which list the stack is
            self._stack.append(made)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name == "PROTO":
            self._protocol = argument
        elif name != "FRAME":
            raise DamageError(f"its pickle uses {name}, which checkpoints never do")

    # The stack.

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise DamageError("its pickle takes more than it put down")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        if not self._outer:
            raise DamageError("its pickle closes a list that it did not open")
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _drop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_to_mark()

    def _tuple(self, size: int) -> tuple[Any, ...]:
        return tuple(reversed([self._pop() for _ in range(size)]))

    def _drop_to_mark(self, _: Any) -> None:
        self._pop_to_mark()

    # The memo.

    def _put(self, index: Any) -> None:
        if not 0 <= int(index) < _MAX_MEMO:
            raise DamageError(f"its pickle numbers a part {shown(int(index))}")
        self._memo[int(index)] = self._top()

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _get(self, index: Any) -> None:
        if int(index) not in self._memo:
            raise DamageError(f"its pickle refers to part {index}, which it does not hold")
        self._stack.append(self._memo[int(index)])

    # Containers. Sets stay lists and frozen sets tuples: nothing of the file is ever hashed but plain keys.

    def _pairs(self, items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            raise DamageError("its pickle gives a dict a key without a value")
        self._spend(ENTRY_BYTES * (len(items) // 2))
        return {plain_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict | Instance):
            raise DamageError("its pickle sets items of something that has none")
        (target.items if isinstance(target, Instance) else target).update(self._pairs(items))

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list | Instance):
            raise DamageError("its pickle appends to something that is no list")
        self._spend(16 * len(items))
        (target.elements if isinstance(target, Instance) else target).extend(items)

    # Globals, objects, calls.

    def _refer(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamageError("its pickle names a global by something other than text")
        if self._protocol < _FIRST_PYTHON3_PROTOCOL:
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        found = Global(module, name)
        self.found.named.add(found)
        return found

    def _global(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self._stack.append(self._refer(module, name))

    def _make(self, origin: Any, args: Any, extra: Any = None) -> Any:
        """An object as `cls.__new__` would give it, before any state: never a call."""
        if not isinstance(origin, Global) or not isinstance(args, tuple):
            raise DamageError("its pickle makes an object of something that is no class")
        if origin in self._meanings:
            return self._mean(origin, args)
        self.found.made.add(origin)
        self._allowance.spend_on_object(args)
        return Instance(origin, args if extra is None else (*args, extra))

    def _call(self, origin: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise DamageError("its pickle calls something without a list of arguments")
        self._allowance.spend_on_object(args)
        if isinstance(origin, Global) and origin in self._meanings:
            return self._mean(origin, args)
        if origin in _RECONSTRUCTORS and args:
            return self._make(args[0], tuple(args[1:]))
        if makes_type_hint(origin, args):
            return Instance(origin, args)
        if (reference := torch_attribute(origin, args)) is not None:
            return reference
        result = Instance(origin if isinstance(origin, Global) else Global("", "a computed value"), args)
        self.found.calls.append((result.origin, result))
        return result

    def _mean(self, origin: Global, args: tuple[Any, ...]) -> Any:
        # Some copy what they are given, and one container may be given to many.
        self._spend(sum(ENTRY_BYTES * len(one) for one in args if isinstance(one, dict | list | tuple)))
        try:
            return self._meanings[origin](args)
        except (TypeError, IndexError) as error:
            raise DamageError(f"its pickle gives {origin} arguments that do not fit ({in_short(error)})") from error

    def _instantiate(self, origin: Any, args: list[Any]) -> Any:
        """INST and OBJ: with arguments they call the class, without they only make an object."""
        return self._call(origin, tuple(args)) if args else self._make(origin, ())

    def _inst(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        args = self._pop_to_mark()
        self._stack.append(self._instantiate(self._refer(module, name), args))

    def _obj(self) -> Any:
        items = self._pop_to_mark()
        if not items:
            raise DamageError("its pickle makes an object of nothing")
        return self._instantiate(items[0], items[1:])

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Global):
            self.found.altered.append(str(target))
        if not isinstance(target, Instance):
            return  # attributes of a dict, a tensor: nothing we read
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                self._spend(ENTRY_BYTES * len(part or {}))
                target.state.update({shown(key, 2_000): value for key, value in (part or {}).items()})
            if is_module(target):
                self.found.modules.append(target)
        else:
            target.raw_state = state

    def _persist(self, _: Any = None) -> Any:
        if self._persistent is None:
            raise DamageError("its pickle refers to data outside itself, where none is allowed")
        return self._persistent(self._pop())


_RECONSTRUCTORS = (
    Global("copyreg", "_reconstructor"),
    Global("copyreg", "__newobj__"),
    Global("copyreg", "__newobj_ex__"),
)

_MAKERS: dict[str, Callable[[PickleMachine], Any]] = {
    "EMPTY_DICT": lambda m: {},
    "EMPTY_LIST": lambda m: [],
    "EMPTY_SET": lambda m: [],
    "EMPTY_TUPLE": lambda m: (),
    "TUPLE1": lambda m: m._tuple(1),
    "TUPLE2": lambda m: m._tuple(2),
    "TUPLE3": lambda m: m._tuple(3),
    "TUPLE": lambda m: tuple(m._pop_to_mark()),
    "FROZENSET": lambda m: tuple(m._pop_to_mark()),
    "LIST": lambda m: m._pop_to_mark(),
    "DICT": lambda m: m._pairs(m._pop_to_mark()),
    "DUP": lambda m: m._top(),
    "STACK_GLOBAL": lambda m: m._refer(*m._tuple(2)),
    "NEWOBJ": lambda m: m._make(*m._tuple(2)),
    "NEWOBJ_EX": lambda m: m._make(*m._tuple(3)),
    "REDUCE": lambda m: m._call(*m._tuple(2)),
    "OBJ": lambda m: m._obj(),
    "BINPERSID": lambda m: m._persist(),
}

_ACTIONS: dict[str, Callable[[PickleMachine, Any], None]] = {
    "MARK": PickleMachine._mark,
    "POP": PickleMachine._drop,
    "POP_MARK": PickleMachine._drop_to_mark,
    "PUT": PickleMachine._put,
    "BINPUT": PickleMachine._put,
    "LONG_BINPUT": PickleMachine._put,
    "MEMOIZE": PickleMachine._memoize,
    "GET": PickleMachine._get,
    "BINGET": PickleMachine._get,
    "LONG_BINGET": PickleMachine._get,
    "SETITEM": lambda m, _: m._set_items(list(m._tuple(2))),
    "SETITEMS": lambda m, _: m._set_items(m._pop_to_mark()),
    "APPEND": lambda m, _: m._append([m._pop()]),
    "APPENDS": lambda m, _: m._append(m._pop_to_mark()),
    "ADDITEMS": lambda m, _: m._append(m._pop_to_mark()),
    "GLOBAL": PickleMachine._global,
    "INST": PickleMachine._inst,
    "BUILD": PickleMachine._build,
}
