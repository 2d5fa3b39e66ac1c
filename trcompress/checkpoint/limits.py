"""Bounds on what a file may ask of the reader's memory before a single value is read."""

from __future__ import annotations

from typing import IO

MAX_PICKLE_BYTES = 1 << 29


class DamageError(ValueError):
    """What a file says cannot be true; the reader that knows the file's name turns it into an InputFileError."""


class LimitedStream:
    """A stream that gives no more than one pickle may need, so that a forged length asks for no memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._taken = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        return self._count(self._stream.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        """Read one line."""
        return self._count(self._stream.readline(self._left + 1))

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
