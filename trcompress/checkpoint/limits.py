"""Bounds on what a file may ask of the reader's memory before a single value is read."""

from __future__ import annotations

from collections.abc import Sized
from typing import IO

MAX_PICKLE_BYTES = 1 << 29
ENTRY_BYTES = 100
"""Of a dict, per entry."""
_FREE_BYTES = 150_000_000
_STEP_BYTES, _OBJECT_BYTES = 8, 500
_BYTES_OF = {"EMPTY_DICT": 200, "DICT": 200, "EMPTY_LIST": 64, "EMPTY_SET": 64, "MARK": 64} | dict.fromkeys(
    ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "FROZENSET"), 100
)
_MAX_TEXT_BYTES = 1 << 25
_TEXT_OPCODES = (
    b"X",
    b"\x8d",
)  # BINUNICODE and BINUNICODE8: a character may take 4 bytes of memory for 1 of the file
_PIECE_BYTES = 1 << 20


class DamageError(ValueError):
    """What a file says cannot be true; the reader that knows the file's name turns it into an InputFileError."""


class Allowance:
    """The memory that what a file's pickles hold may take: 150 MB, and as many bytes as the file has.

    Args:
        file_bytes: size of the file.
    """

    def __init__(self, file_bytes: int) -> None:
        self._most = self._left = _FREE_BYTES + file_bytes

    def spend(self, nbytes: int) -> None:
        """Count bytes before they are taken.

        Raises:
            DamageError: all is spent.
        """
        self._left -= nbytes
        if self._left < 0:
            raise DamageError(
                f"what its pickle holds takes more than {self._most:,} bytes of memory, the most for a file of its "
                "size: save the weights alone, with torch.save(model.state_dict(), path)"
            )

    def spend_on_step(self, opcode: str) -> None:
        """Count what a step of a pickle leaves behind, its argument apart."""
        self.spend(_BYTES_OF.get(opcode, _STEP_BYTES))

    def spend_on_object(self, args: Sized) -> None:
        """Count a stand-in for an object, and a copy of its arguments."""
        self.spend(_OBJECT_BYTES + _STEP_BYTES * len(args))


class LimitedStream:
    """A stream that gives no more than one pickle may need, so that a forged length asks for no memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._taken = 0
        self._opcode = b""

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes, in pieces: one read would take the memory for all that is asked for."""
        if size > _MAX_TEXT_BYTES and self._opcode in _TEXT_OPCODES:
            raise DamageError(f"its pickle holds a text of {size:,} bytes; at most {_MAX_TEXT_BYTES:,} are read")
        size, pieces = min(size, self._left + 1), []
        while size > 0 and (piece := self._stream.read(min(size, _PIECE_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._opcode = data if len(data) == 1 else self._opcode
        return self._count(data)

    def readline(self) -> bytes:
        """Read one line."""
        return self._count(self._stream.readline(min(self._left + 1, _MAX_TEXT_BYTES)))

    def tell(self) -> int:
        """Bytes taken so far."""
        return self._taken

    @property
    def _left(self) -> int:
        return MAX_PICKLE_BYTES - self._taken

    def _count(self, data: bytes) -> bytes:
        self._taken += len(data)
        if self._left < 0:
            raise DamageError(f"its pickle is larger than {MAX_PICKLE_BYTES:,} bytes")
        return data


def shown(value: object, most: int = 80) -> str:
    """Spell a value of an untrusted file in at most `most` characters, without walking into it.

    A list that holds another twice, and that one another twice, is short in a file and endless in `str`.

    Example:
        >>> shown("weight"), shown([[1]]), shown(10**5000)
        ('weight', 'a list', 'a whole number of 16,610 bits')
    """
    if isinstance(value, str):
        return value[:most]
    if isinstance(value, int) and not isinstance(value, bool):
        small = value.bit_length() <= 3 * most
        return str(value) if small else f"a whole number of {value.bit_length():,} bits"
    if isinstance(value, bool | float | complex) or value is None:
        return str(value)
    if isinstance(value, bytes):
        return repr(value[:most])[:most]
    return str(value)[:most] if type(value).__name__ == "Global" else f"a {type(value).__name__}"


def in_short(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__


def printable(text: str) -> str:
    """Text of an untrusted file as one line that cannot steer a terminal.

    Example:
        >>> printable("a\\nb\\x1b[2J")
        'a\\\\nb\\\\x1b[2J'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
